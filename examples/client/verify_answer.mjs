// Verifies a signed answer or a security event token of Trustwatch offline, and prints its claims.
//
//   node verify_answer.mjs JWKS.json ISSUER AUDIENCE TYP < TOKEN
//
// JWKS.json is what /ssf/jwks.json answered; TYP is trustwatch-risk+jwt, trustwatch-decision+jwt, … or secevent+jwt.
import { readFileSync } from "node:fs";
import { createLocalJWKSet, jwtVerify } from "jose";

const [jwks, issuer, audience, typ] = process.argv.slice(2);
const keys = createLocalJWKSet(JSON.parse(readFileSync(jwks, "utf8")));
const token = readFileSync(0, "utf8").trim();
const { payload } = await jwtVerify(token, keys, { issuer, audience, typ, algorithms: ["RS256"] });
console.log(JSON.stringify(payload));
