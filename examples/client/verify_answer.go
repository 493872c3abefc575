// Verifies a signed answer or a security event token of Trustwatch offline, and prints its claims.
//
//	verify_answer JWKS.json ISSUER AUDIENCE TYP [PRIVATE.json] < TOKEN
//
// The arguments are those of verify_answer.mjs. Needs github.com/go-jose/go-jose/v4.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

var (
	keyAlgorithms     = []jose.KeyAlgorithm{jose.RSA_OAEP_256, jose.ECDH_ES_A256KW}
	contentAlgorithms = []jose.ContentEncryption{jose.A256GCM}
	leeway            = 5 * time.Second
)

func readJSON(path string, into any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, into)
}

// decrypt gives the signed token in an encrypted one: nothing is taken that was not encrypted.
func decrypt(token, path string) (string, error) {
	var own jose.JSONWebKey
	if err := readJSON(path, &own); err != nil {
		return "", err
	}
	encrypted, err := jose.ParseEncryptedCompact(token, keyAlgorithms, contentAlgorithms)
	if err != nil {
		return "", err
	}
	if encrypted.Header.ExtraHeaders[jose.HeaderContentType] != "JWT" {
		return "", errors.New("what is encrypted is no JWT")
	}
	content, err := encrypted.Decrypt(own)
	return string(content), err
}

func verify(token, keysPath, issuer, audience, typ string) ([]byte, error) {
	var keys jose.JSONWebKeySet
	if err := readJSON(keysPath, &keys); err != nil {
		return nil, err
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, err
	}
	header := signed.Signatures[0].Protected
	if header.ExtraHeaders[jose.HeaderType] != typ {
		return nil, errors.New("another type of token")
	}
	found := keys.Key(header.KeyID)
	if len(found) != 1 {
		return nil, errors.New("no such key")
	}
	content, err := signed.Verify(found[0])
	if err != nil {
		return nil, err
	}
	var claims jwt.Claims
	if err := json.Unmarshal(content, &claims); err != nil {
		return nil, err
	}
	expected := jwt.Expected{Issuer: issuer, AnyAudience: jwt.Audience{audience}, Time: time.Now()}
	return content, claims.ValidateWithLeeway(expected, leeway)
}

func run() error {
	if len(os.Args) < 5 {
		return errors.New("usage: verify_answer JWKS.json ISSUER AUDIENCE TYP [PRIVATE.json] < TOKEN")
	}
	read, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	token := strings.TrimSpace(string(read))
	if len(os.Args) > 5 {
		if token, err = decrypt(token, os.Args[5]); err != nil {
			return err
		}
	}
	claims, err := verify(token, os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	if err != nil {
		return err
	}
	fmt.Println(string(claims))
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
