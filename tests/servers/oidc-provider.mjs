// An OpenID-certified authorization server (npm oidc-provider) for the tests: client credentials, RFC 9068 tokens by
// resource indicator (RFC 8707), every way in which a client can authenticate, bound tokens (RFC 8705, RFC 9449).
//
//   node oidc-provider.mjs '{"port":0,"alg":"ES256","ttl":300,"clients":[…],
//                           "resources":{"https://orders.shop":"orders:read orders:write"}}'
//
// A client:   {"id":"checkout","secret":"…","scope":"orders:write"}, and as it authenticates
//   "method"          client_secret_basic (default with a secret), client_secret_post, private_key_jwt (default without; "jwks"
//                     or "publicKey": PEM; "alg": ES256), tls_client_auth ("subject": {"tls_client_auth_san_uri":"…"}), self_signed_tls_client_auth
//                     ("certificate": PEM), workload ("subject": the `sub` of its platform's tokens), none. A secret is
//                     accepted in both places, so a test that is about the place looks at /-/last
//   "dpopBound", "certificateBound": true  its tokens are bound to the key of its proofs, to its certificate
// More settings:
//   "host":           the address that it listens on and is called by, instead of 127.0.0.1
//   "tls":            {"cert","key"} (files): https; with "clientCa" it asks for client certificates, with "alias":true beside it
//                     only at a second port, which mtls_endpoint_aliases name (RFC 8705 §5)
//   "opaque":         true: tokens say nothing by themselves; /token/introspection tells (RFC 7662), /token/revocation ends them
//   "signedAnswers":  an algorithm: introspection answers with JWTs (RFC 9701), whatever the client asks for
//   "dpop":           {"nonce":true}: proofs need a nonce
//   "workloads":      {"jwks":{…},"issuer":"…"}: whose tokens authenticate the clients of the method workload
//   "jwtBearer":      {"jwks":{…}}: the grant of RFC 7523 §2.1, for assertions signed by these keys
//   "tokenExchange":  {"jwks":{…},"issuedTokenType":"…","tokenType":"N_A"}: RFC 8693, for our own tokens and those of these
//                     keys; the last two lie about what was issued
//
// Prints one line of JSON when ready: issuer, and the address of its management. There, for the tests alone:
//   POST /-/rotate[?publish-only|?drop]  a new signing key: published and used, only published, or used and the old dropped
//   POST /-/promote?keep=N               the key that was published last signs, and only the newest N stay published
//   POST /-/delay?ms=N                   wait so long before each answer
//   POST /-/client?id=…&secret=…         the client has another secret from now on
//   POST /-/nonce                        the nonces given out so far are no good any more
//   GET  /-/requests                     how often each path was asked for
//   GET  /-/last                         the last request of a token: form, headers, certificate, port, and the answer's status

import { createHash, createPublicKey, randomBytes, randomUUID, X509Certificate } from 'node:crypto';
import { createServer as createHttp } from 'node:http';
import { createServer as createHttps } from 'node:https';
import { readFileSync } from 'node:fs';
import { parse as parseForm } from 'node:querystring';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';
import { authenticateWorkload, JWT_BEARER, registerGrants, TOKEN_EXCHANGE } from './oidc-grants.mjs';

// The library uses it, and Node 20 has none.
URL.parse ??= (text, base) => (URL.canParse(text, base) ? new URL(text, base) : null);

const given = JSON.parse(process.argv[2] ?? '{}');
const alg = given.alg ?? 'ES256';
const ttl = given.ttl ?? 300;
const resources = given.resources ?? { 'https://orders.shop': 'orders:read orders:write' };
const scopes = [...new Set(Object.values(resources).flatMap((s) => s.split(' ')))];
const grantTypes = [
  'client_credentials',
  ...(given.jwtBearer ? [JWT_BEARER] : []),
  ...(given.tokenExchange ? [TOKEN_EXCHANGE] : []),
];
const signingAlgs = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'EdDSA'];

// === clients ===

const clients = (given.clients ?? []).map((client) => ({
  ...client,
  method: client.method ?? (client.secret ? 'client_secret_basic' : 'private_key_jwt'),
}));
// They have one that nobody knows.
for (const client of clients) if (client.method === 'workload') client.secret = randomUUID();

function registered({ id, method, secret, jwks, publicKey, alg: assertionAlg, certificate, subject, ...client }) {
  const key = () => createPublicKey(publicKey).export({ format: 'jwk' });
  const authentication = {
    client_secret_basic: () => ({ client_secret: secret }),
    client_secret_post: () => ({ client_secret: secret }),
    private_key_jwt: () => ({ jwks: jwks ?? { keys: [key()] }, token_endpoint_auth_signing_alg: assertionAlg ?? 'ES256' }),
    tls_client_auth: () => subject,
    self_signed_tls_client_auth: () => ({ jwks: { keys: [certificateKey(certificate)] } }),
    workload: () => ({ client_secret: secret, token_endpoint_auth_method: 'client_secret_basic' }),
    none: () => ({}),
  };
  return {
    client_id: id,
    grant_types: grantTypes,
    redirect_uris: [],
    response_types: [],
    id_token_signed_response_alg: alg,
    token_endpoint_auth_method: method,
    dpop_bound_access_tokens: client.dpopBound ?? false,
    ...(given.signedAnswers ? { introspection_signed_response_alg: given.signedAnswers } : {}),
    ...(given.tls?.clientCa ? { tls_client_certificate_bound_access_tokens: client.certificateBound ?? false } : {}),
    ...(client.scope ? { scope: client.scope } : {}),
    ...authentication[method](),
  };
}

function certificateKey(pem) {
  const certificate = new X509Certificate(pem);
  return { ...certificate.publicKey.export({ format: 'jwk' }), x5c: [certificate.raw.toString('base64')] };
}

// === the server ===

let made = 0;
async function newKey() {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  made += 1;
  return { ...(await exportJWK(privateKey)), kid: `key-${process.pid}-${made}`, alg, use: 'sig' };
}

const peerCertificate = (request) => request.socket.getPeerX509Certificate?.();

const mTLS = {
  enabled: true,
  certificateBoundAccessTokens: true,
  selfSignedTlsClientAuth: true,
  tlsClientAuth: true,
  getCertificate: (ctx) => peerCertificate(ctx.req),
  certificateAuthorized: (ctx) => ctx.socket.authorized,
  certificateSubjectMatches(ctx, property, expected) {
    const { subject, subjectAltName = '' } = peerCertificate(ctx.req);
    // Node writes a name per line, most significant first; RFC 4514 the other way round.
    if (property === 'tls_client_auth_subject_dn') return subject.split('\n').reverse().join(',') === expected;
    const kind = { dns: 'DNS', uri: 'URI', ip: 'IP Address', email: 'email' }[property.slice('tls_client_auth_san_'.length)];
    return subjectAltName.split(', ').includes(`${kind}:${expected}`);
  },
};

// The first key that fits signs; all are published.
let keys = [await newKey()];
let nonceSecret = randomBytes(32);
let provider;
function build() {
  provider = new Provider(issuer, {
    clients: clients.map(registered),
    jwks: { keys },
    scopes,
    clientAuthMethods: [
      'client_secret_basic',
      'client_secret_post',
      'private_key_jwt',
      'none',
      ...(given.tls?.clientCa ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
    ],
    enabledJWA: { clientAuthSigningAlgValues: signingAlgs },
    ttl: { ClientCredentials: ttl },
    ...(alias ? { discovery: { mtls_endpoint_aliases: { token_endpoint: `${alias}/token` } } } : {}),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      jwtIntrospection: { enabled: given.signedAnswers !== undefined },
      revocation: { enabled: true, allowedPolicy: (_ctx, client, token) => token.clientId === client.clientId },
      dPoP: { enabled: true, nonceSecret, requireNonce: () => given.dpop?.nonce ?? false },
      ...(given.tls?.clientCa ? { mTLS } : {}),
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(_ctx, resource) {
          const scope = resources[resource];
          if (!scope) throw new Error(`no such resource: ${resource}`);
          return { scope, audience: resource, accessTokenTTL: ttl, accessTokenFormat: given.opaque ? 'opaque' : 'jwt', jwt: { sign: { alg } } };
        },
      },
    },
    extraTokenClaims: () => given.claims ?? {},
    formats: {
      customizers: {
        jwt(ctx, _token, { payload }) {
          Object.assign(payload, ctx.state.subject);
        },
      },
    },
  });
  registerGrants(provider, given, { keys: keys.map(({ kty, crv, x, y, n, e, kid }) => ({ kty, crv, x, y, n, e, kid, alg })) });
  provider.on('server_error', (_ctx, error) => console.error(error));
}

const requests = {};
let last = null;
let delay = 0;
async function handle(request, response) {
  const url = new URL(request.url, 'http://unused');
  if (url.pathname.startsWith('/-/')) return manage(url, response);
  requests[url.pathname] = (requests[url.pathname] ?? 0) + 1;
  if (request.method === 'POST' && url.pathname === '/token') await record(request, response);
  if (given.signedAnswers) request.headers.accept = 'application/token-introspection+jwt';
  if (delay) await sleep(delay);
  return provider.callback()(request, response);
}

/// Keeps what came, and leaves the form where the library finds it.
async function record(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const form = parseForm(Buffer.concat(chunks).toString());
  const certificate = peerCertificate(request);
  const one = {
    form: { ...form },
    headers: { ...request.headers },
    port: request.socket.localPort,
    certificate: certificate ? createHash('sha256').update(certificate.raw).digest('base64url') : null,
  };
  last = one;
  response.once('finish', () => {
    one.status = response.statusCode;
  });
  if (given.workloads) {
    const workloads = clients.filter(({ method }) => method === 'workload');
    await authenticateWorkload({ form, headers: request.headers }, { ...given.workloads, clients: workloads }, issuer);
  }
  request.body = form;
}

async function manage(url, response) {
  switch (url.pathname) {
    case '/-/rotate': {
      const key = await newKey();
      if (url.searchParams.has('publish-only')) keys = [...keys, key];
      else keys = url.searchParams.has('drop') ? [key] : [key, ...keys];
      build();
      return response.end(JSON.stringify({ kid: key.kid }));
    }
    case '/-/promote': {
      keys = [keys.at(-1), ...keys.slice(0, -1)].slice(0, Number(url.searchParams.get('keep')));
      build();
      return response.end(JSON.stringify({ kid: keys[0].kid }));
    }
    case '/-/delay':
      delay = Number(url.searchParams.get('ms'));
      return response.end('{}');
    case '/-/client':
      clients.find(({ id }) => id === url.searchParams.get('id')).secret = url.searchParams.get('secret');
      build();
      return response.end('{}');
    case '/-/nonce':
      nonceSecret = randomBytes(32);
      build();
      return response.end('{}');
    case '/-/requests':
      return response.end(JSON.stringify(requests));
    case '/-/last':
      return response.end(JSON.stringify(last));
    default:
      return response.writeHead(404).end();
  }
}

// === listening ===

const host = given.host ?? '127.0.0.1';

async function listen(server, port = 0) {
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  return server.address().port;
}

const https = (askForCertificate) =>
  createHttps(
    {
      cert: readFileSync(given.tls.cert),
      key: readFileSync(given.tls.key),
      // Asked for, and judged by whether the client needs one.
      ...(askForCertificate ? { ca: readFileSync(given.tls.clientCa), requestCert: true, rejectUnauthorized: false } : {}),
    },
    handle,
  );

const asks = given.tls?.clientCa !== undefined;
const port = await listen(given.tls ? https(asks && !given.tls.alias) : createHttp(handle), given.port);
const issuer = `${given.tls ? 'https://localhost' : `http://${host}`}:${port}`;
const alias = asks && given.tls.alias ? `https://localhost:${await listen(https(true))}` : null;
// In plain text beside a server with TLS.
const management = given.tls ? await listen(createHttp(handle)) : port;
build();
console.log(JSON.stringify({ issuer, alias, management: `${host}:${management}` }));
