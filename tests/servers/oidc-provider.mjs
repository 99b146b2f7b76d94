// An OpenID-certified authorization server (npm oidc-provider) for the tests: client credentials, RFC 9068 tokens by
// resource indicator (RFC 8707), client_secret_basic and private_key_jwt. Everything else it can do is off.
//
//   node oidc-provider.mjs '{"port":0,"alg":"ES256","ttl":300,"tls":{"cert":"…","key":"…"},
//                           "clients":[{"id":"checkout","secret":"…","scope":"orders:write"},{"id":"k","jwks":{…}}],
//                           "resources":{"https://orders.shop":"orders:read orders:write"}}'
//
// Prints one line of JSON with its issuer when ready. Beside the server's own endpoints it answers, for the tests alone:
//   POST /-/rotate[?publish-only|?drop]  a new signing key: published and used, only published, or used and the old dropped
//   POST /-/delay?ms=N                   wait so long before each answer
//   GET  /-/requests                     how often each path was asked for

import { createServer as createHttp } from 'node:http';
import { createServer as createHttps } from 'node:https';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

const given = JSON.parse(process.argv[2] ?? '{}');
const alg = given.alg ?? 'ES256';
const ttl = given.ttl ?? 300;
const resources = given.resources ?? { 'https://orders.shop': 'orders:read orders:write' };
const scopes = [...new Set(Object.values(resources).flatMap((s) => s.split(' ')))];

const clients = (given.clients ?? []).map(({ id, secret, jwks, scope, alg: assertionAlg }) => ({
  client_id: id,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  id_token_signed_response_alg: alg,
  ...(scope ? { scope } : {}),
  ...(secret
    ? { client_secret: secret, token_endpoint_auth_method: 'client_secret_basic' }
    : { jwks, token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: assertionAlg ?? 'ES256' }),
}));

let made = 0;
async function newKey() {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  made += 1;
  return { ...(await exportJWK(privateKey)), kid: `key-${process.pid}-${made}`, alg, use: 'sig' };
}

// The first key that fits signs; all are published.
let keys = [await newKey()];
let provider;
function build(issuer) {
  provider = new Provider(issuer, {
    clients,
    jwks: { keys },
    scopes,
    clientAuthMethods: ['client_secret_basic', 'private_key_jwt'],
    ttl: { ClientCredentials: ttl },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(_ctx, resource) {
          const scope = resources[resource];
          if (!scope) throw new Error(`no such resource: ${resource}`);
          return { scope, audience: resource, accessTokenTTL: ttl, accessTokenFormat: 'jwt', jwt: { sign: { alg } } };
        },
      },
    },
    extraTokenClaims(_ctx, token) {
      return { sub: token.clientId, ...(given.claims ?? {}) };
    },
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
}

const requests = {};
let delay = 0;
async function handle(request, response) {
  const url = new URL(request.url, 'http://unused');
  if (url.pathname.startsWith('/-/')) return manage(url, response);
  requests[url.pathname] = (requests[url.pathname] ?? 0) + 1;
  if (delay) await sleep(delay);
  return provider.callback()(request, response);
}

async function manage(url, response) {
  switch (url.pathname) {
    case '/-/rotate': {
      const key = await newKey();
      if (url.searchParams.has('publish-only')) keys = [...keys, key];
      else keys = url.searchParams.has('drop') ? [key] : [key, ...keys];
      build(issuer);
      return response.end(JSON.stringify({ kid: key.kid }));
    }
    case '/-/delay':
      delay = Number(url.searchParams.get('ms'));
      return response.end('{}');
    case '/-/requests':
      return response.end(JSON.stringify(requests));
    default:
      return response.writeHead(404).end();
  }
}

const server = given.tls
  ? createHttps({ cert: readFileSync(given.tls.cert), key: readFileSync(given.tls.key) }, handle)
  : createHttp(handle);
await new Promise((resolve, reject) => {
  server.once('error', reject);
  server.listen(given.port ?? 0, '127.0.0.1', resolve);
});
const issuer = `${given.tls ? 'https://localhost' : 'http://127.0.0.1'}:${server.address().port}`;
build(issuer);
console.log(JSON.stringify({ issuer }));
