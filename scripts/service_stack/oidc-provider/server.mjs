// An authorization server for agents: node-oidc-provider, its own options, and one grant of ours (RFC 8693).
// Started by scripts/services; `node server.mjs CONFIG.json`, whose members are described in ../oidc_provider.py.
//
// Where `trustwatch` is configured it is asked at each issuance (AuthZEN, profile for OAuth 2.0 token issuance): a token
// lives no longer than the answer allows and carries what it says; a denial or, with `fail: "closed"`, no answer is
// `access_denied`. oidc-provider asks for a lifetime synchronously, but for the resource server before that and with
// `await`: so that is where we ask.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify } from 'jose';
import { Provider, errors } from 'oidc-provider';

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const AGENT = ['agent_type', 'capabilities', 'delegated_user_id', 'organization_id'];

const file = process.argv[2];
const config = JSON.parse(readFileSync(file, 'utf8'));
const kept = (name) => join(dirname(file), name);

// --- what outlives a restart: keys, and clients that registered themselves ---

async function openKeys() {
  if (!existsSync(kept('keys.json'))) {
    const { privateKey } = await generateKeyPair('RS256', { extractable: true });
    const key = { ...await exportJWK(privateKey), kid: crypto.randomUUID(), alg: 'RS256', use: 'sig' };
    writeFileSync(kept('keys.json'), JSON.stringify({ keys: [key] }), { mode: 0o600 });
  }
  return JSON.parse(readFileSync(kept('keys.json'), 'utf8'));
}

class Adapter {
  // oidc-provider's own holds a thousand things of all kinds and forgets the oldest, clients too
  static stores = new Map();

  constructor(model) {
    this.model = model;
    if (!Adapter.stores.has(model)) Adapter.stores.set(model, this.#read());
    this.store = Adapter.stores.get(model);
  }

  #read() {
    const saved = this.model === 'Client' && existsSync(kept('clients.json'));
    return new Map(saved ? JSON.parse(readFileSync(kept('clients.json'), 'utf8')) : []);
  }

  #save() {
    if (this.model !== 'Client') return;
    writeFileSync(kept('clients.json'), JSON.stringify([...this.store]), { mode: 0o600 });
  }

  async upsert(id, payload, expiresIn) {
    const ends = expiresIn ? Date.now() + expiresIn * 1000 : Infinity;
    this.store.set(id, { payload, ends: Number.isFinite(ends) ? ends : null });
    this.#save();
  }

  async find(id) {
    const found = this.store.get(id);
    if (found?.ends && found.ends < Date.now()) this.store.delete(id);
    return this.store.get(id)?.payload;
  }

  async destroy(id) {
    this.store.delete(id);
    this.#save();
  }

  async consume(id) {
    this.store.get(id).payload.consumed = Math.floor(Date.now() / 1000);
  }

  async revokeByGrantId(grantId) {
    for (const [id, { payload }] of this.store) if (payload.grantId === grantId) this.store.delete(id);
  }

  async findByUid(uid) {
    return [...this.store.values()].find(({ payload }) => payload.uid === uid)?.payload;
  }

  async findByUserCode() {
    return undefined; // the device flow is not on
  }
}

// --- the question at issuance ---

const decisions = new WeakMap(); // request -> {lifetime, claims}
const exchanged = new WeakMap(); // request -> what the subject token says

function agentOf(client) {
  return Object.fromEntries(AGENT.map((name) => [name, client?.[name]]).filter(([, value]) => value !== undefined));
}

function question(ctx, resource, client) {
  const subject = exchanged.get(ctx); // whom the token will be about, be it an agent; the client is who acts
  const grant = subject ? 'token_exchange' : ctx.oidc.params.grant_type;
  const scopes = (ctx.oidc.params.scope ?? '').split(' ').filter(Boolean);
  const names = [`issue:access_token:${grant}`, ...scopes];
  return {
    subject: subject ? { type: 'user', id: subject.sub } : { type: 'client', id: client.clientId, properties: agentOf(client) },
    resource: { type: 'audience', id: resource },
    context: {
      client_id: client.clientId, iss: config.issuer, ip: ctx.ip,
      ...(subject && { act: subject.act }),
      issuance: { capabilities: ['urn:ietf:params:authzen:token-issuance'] },
    },
    evaluations: names.map((name) => ({ action: { name } })),
    options: { evaluations_semantic: 'execute_all' },
  };
}

async function ask(ctx, resource, client) {
  const { url, token_file: tokenFile, timeout_ms: timeout } = config.trustwatch;
  const headers = { 'content-type': 'application/json' };
  if (tokenFile) headers.authorization = `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`;
  const body = JSON.stringify(question(ctx, resource, client));
  const answer = await fetch(url, { method: 'POST', headers, body, signal: AbortSignal.timeout(timeout) });
  if (answer.status !== 200) throw new Error(`${url} answers ${answer.status}`);
  return (await answer.json()).evaluations;
}

function permitted(ctx, items) {
  // the first item is the gate; each of the others decides one scope, and a token may be left with fewer
  const scopes = (ctx.oidc.params.scope ?? '').split(' ').filter(Boolean);
  if (items?.[0]?.decision !== true) throw new errors.AccessDenied();
  const left = scopes.filter((_, index) => items[index + 1]?.decision === true);
  if (scopes.length && !left.length) throw new errors.InvalidScope('none of the scopes is permitted', scopes.join(' '));
  if (left.length < scopes.length) ctx.oidc.params.scope = left.join(' ');
  return items.filter(({ decision }) => decision === true);
}

async function decide(ctx, resource, client) {
  let lifetime = exchanged.get(ctx)?.left ?? Infinity;
  const claims = {};
  if (config.trustwatch) {
    let items;
    try {
      items = await ask(ctx, resource, client);
    } catch (error) {
      log({ type: 'decision.error', client_id: client.clientId, error: String(error.cause ?? error) });
      if (config.trustwatch.fail !== 'open') throw new errors.AccessDenied('no decision');
      items = Array(1 + (ctx.oidc.params.scope ?? '').split(' ').length).fill({ decision: true });
    }
    items = permitted(ctx, items);
    for (const { issuance } of items.map(({ context }) => context ?? {})) {
      lifetime = Math.min(lifetime, issuance?.token_lifetime ?? Infinity);
      Object.assign(claims, issuance?.claims);
    }
    if (lifetime <= 0) throw new errors.AccessDenied();
  }
  decisions.set(ctx, { lifetime: Math.min(config.lifetime_s, lifetime), claims });
}

async function getResourceServerInfo(ctx, resource, client) {
  const known = config.resources[resource];
  if (!known) throw new errors.InvalidTarget(`unknown resource ${resource}`);
  await decide(ctx, resource, client);
  return {
    scope: known.scope, audience: resource, accessTokenFormat: known.format,
    ...(known.format === 'jwt' && { jwt: { sign: { alg: 'RS256' } } }),
  };
}

function extraTokenClaims(ctx, token) {
  const subject = exchanged.get(ctx);
  const own = agentOf(token.client);
  if (subject) Object.assign(own, { act: subject.act }, subject.user && { delegated_user_id: subject.user });
  const claims = { policy_version: config.policy_version, ...own, ...decisions.get(ctx)?.claims };
  return Object.fromEntries(Object.entries(claims).filter(([, value]) => value !== undefined && value !== null));
}

const ttl = (ctx) => Math.floor(decisions.get(ctx)?.lifetime ?? config.lifetime_s);

// --- token exchange: the caller acts for the subject of a token of ours ---

async function subjectOf(ctx, keys) {
  const { subject_token: value, subject_token_type: type } = ctx.oidc.params;
  if (type !== ACCESS_TOKEN) throw new errors.InvalidRequest(`subject_token_type must be ${ACCESS_TOKEN}`);
  try {
    return (await jwtVerify(value, keys, { issuer: config.issuer, typ: 'at+jwt', algorithms: ['RS256'] })).payload;
  } catch {
    throw new errors.InvalidGrant('subject_token is no valid JWT access token of this server');
  }
}

async function exchange(provider, keys, ctx) {
  const { client, params } = ctx.oidc;
  const subject = await subjectOf(ctx, keys);
  exchanged.set(ctx, {
    sub: subject.sub,
    user: subject.delegated_user_id,
    act: { sub: client.clientId, act: subject.act ?? { sub: subject.client_id } }, // who had the token acted before
    left: subject.exp - Date.now() / 1000,
  });
  const resource = params.resource ?? params.audience ?? Object.keys(config.resources)[0];
  const info = await getResourceServerInfo(ctx, resource, client);
  const may = (subject.scope ?? '').split(' ').filter((name) => info.scope.split(' ').includes(name));
  const wanted = params.scope?.split(' ') ?? may;
  if (wanted.some((name) => !may.includes(name))) throw new errors.InvalidScope('more than the subject token has', params.scope);
  const token = new provider.AccessToken({
    client, accountId: subject.sub, gty: 'token_exchange', scope: wanted.join(' ') || undefined,
  });
  token.resourceServer = new provider.ResourceServer(resource, info);
  ctx.oidc.entity('AccessToken', token);
  ctx.body = {
    access_token: await token.save(), issued_token_type: ACCESS_TOKEN, token_type: 'Bearer',
    expires_in: token.expiration, scope: token.scope,
  };
}

// --- people: whoever is in `users` signs in by name alone, and consents by signing in ---

async function findAccount(ctx, id) {
  const known = config.users[id];
  return known && { accountId: id, claims: () => ({ sub: id, ...known }) };
}

async function loadExistingGrant(ctx) {
  const { client, session, resourceServers, requestParamScopes } = ctx.oidc;
  const asked = [...requestParamScopes].join(' ');
  const grant = new ctx.oidc.provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope(asked);
  for (const resource of Object.keys(resourceServers)) grant.addResourceScope(resource, asked);
  await grant.save();
  return grant;
}

const escaped = (text) => text.replace(/[^\w .-]/g, (sign) => `&#${sign.codePointAt(0)};`);

async function signIn(provider, ctx) {
  const { uid, params } = await provider.interactionDetails(ctx.req, ctx.res);
  if (ctx.method === 'POST') {
    let body = '';
    for await (const part of ctx.req) body += part;
    const accountId = new URLSearchParams(body).get('login') ?? '';
    if (Object.hasOwn(config.users, accountId)) {
      await provider.interactionFinished(ctx.req, ctx.res, { login: { accountId } }, { mergeWithLastSubmission: false });
      ctx.respond = false;
      return;
    }
  }
  ctx.type = 'html';
  ctx.body = `<!doctype html><html lang="en"><title>Sign in</title><h1>Sign in to ${escaped(params.client_id)}</h1>
    <form method="post" action="/interaction/${uid}"><label>Name <input name="login" autofocus required></label>
    <button>Sign in</button></form></html>`;
}

// --- the log: one JSON object a line ---

function log(members) {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), issuer: config.issuer, ...members })}\n`);
}

function logRequest(ctx, error) {
  const { client, params, route, entities } = ctx.oidc;
  const token = entities?.ClientCredentials ?? entities?.AccessToken;
  log({
    type: error ? `${route}.error` : route,
    client_id: client?.clientId, ip: ctx.ip, user_agent: ctx.get('user-agent') || undefined,
    client_auth_method: client?.clientAuthMethod, grant_type: params?.grant_type, resource: params?.resource,
    scope: token?.scope, requested_scope: ctx.oidc.body?.scope,
    ...(token && { jti: token.jti, aud: token.aud, sub: token.accountId ?? token.clientId, format: token.format }),
    ...token?.extra,
    ...(token && route === 'token' && { expires_in: token.expiration }),
    ...(route === 'introspection' && !error && { active: ctx.body?.active }),
    ...(error && { error: error.error ?? 'server_error', error_description: error.error_description }),
    ...(error && { detail: error.error_detail ?? (error.error ? undefined : String(error.stack)) }),
  });
}

// --- all together ---

const keys = await openKeys();
const scopes = [...new Set(['openid', 'profile', ...Object.values(config.resources).flatMap(({ scope }) => scope.split(' '))])];
const provider = new Provider(config.issuer, {
  adapter: Adapter,
  jwks: keys,
  clients: config.clients,
  scopes,
  clientAuthMethods: ['private_key_jwt', 'client_secret_basic', 'client_secret_post', 'none'],
  extraClientMetadata: { properties: AGENT },
  clientDefaults: {
    grant_types: ['client_credentials'], redirect_uris: [], response_types: [], token_endpoint_auth_method: 'private_key_jwt',
  },
  findAccount,
  loadExistingGrant,
  claims: { openid: ['sub', ...new Set(Object.values(config.users).flatMap(Object.keys))], profile: [] },
  conformIdTokenClaims: false, // groups are wanted in the ID token itself
  interactions: { url: (ctx, { uid }) => `/interaction/${uid}` },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    dPoP: { enabled: true },
    introspection: { enabled: true },
    registration: { enabled: true, initialAccessToken: false },
    registrationManagement: { enabled: true },
    resourceIndicators: { enabled: true, defaultResource: () => Object.keys(config.resources)[0], getResourceServerInfo },
    revocation: {
      enabled: true,
      allowedPolicy: (ctx, client, token) => token.clientId === client.clientId || config.operators.includes(client.clientId),
    },
  },
  ttl: { AccessToken: ttl, ClientCredentials: ttl },
  extraTokenClaims,
});
provider.proxy = true; // X-Forwarded-For counts: on loopback alone, and tests come from several networks
const publicKeys = createLocalJWKSet({ keys: keys.keys.map(({ kty, n, e, kid, alg }) => ({ kty, n, e, kid, alg })) });
provider.registerGrantType(EXCHANGE, (ctx) => exchange(provider, publicKeys, ctx), [
  'subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'resource', 'audience',
  'scope',
]);

const failures = ['grant', 'introspection', 'revocation', 'registration_create', 'registration_update', 'registration_delete'];
for (const name of [...failures.map((name) => `${name}.error`), 'server_error']) provider.on(name, logRequest);
const told = new Set(['token', 'introspection', 'revocation', 'registration', 'client_update', 'client_delete']);
provider.use(async (ctx, next) => {
  if (ctx.path.startsWith('/interaction/')) return signIn(provider, ctx);
  await next();
  if (told.has(ctx.oidc?.route) && ctx.status < 400) logRequest(ctx);
});

const server = provider.listen(config.port, '127.0.0.1');
process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeAllConnections(); });
