// Verifies a signed answer or a security event token of Trustwatch offline, and prints its claims.
//
//   node verify_answer.mjs JWKS.json ISSUER AUDIENCE TYP [PRIVATE.json] < TOKEN
//
// JWKS.json is what /ssf/jwks.json answered; TYP is trustwatch-risk+jwt, trustwatch-decision+jwt, … or secevent+jwt.
// PRIVATE.json, a private JWK, decrypts first (JWE): then nothing is taken that was not encrypted.
import { readFileSync } from "node:fs";
import { compactDecrypt, createLocalJWKSet, importJWK, jwtVerify } from "jose";

const [jwks, issuer, audience, typ, own] = process.argv.slice(2);
const readJson = (path) => JSON.parse(readFileSync(path, "utf8"));
let token = readFileSync(0, "utf8").trim();
if (own) {
  const jwk = readJson(own);
  const { plaintext, protectedHeader } = await compactDecrypt(token, await importJWK(jwk, jwk.alg ?? "RSA-OAEP-256"));
  if (protectedHeader.cty !== "JWT") throw new Error("what is encrypted is no JWT");
  token = new TextDecoder().decode(plaintext);
}
const keys = createLocalJWKSet(readJson(jwks));
const { payload } = await jwtVerify(token, keys, { issuer, audience, typ, algorithms: ["RS256"] });
console.log(JSON.stringify(payload));
