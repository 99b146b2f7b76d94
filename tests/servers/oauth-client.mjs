// An OAuth client and resource server that is not ours (npm oauth4webapi), pointed at an issuer of ours: metadata (RFC
// 8414), client credentials by both authentication methods, and its validation of the token (RFC 9068).
//
//   node oauth-client.mjs '{"issuer":"https://…","clientId":"…","secret":"…","scope":"…","audience":"…"}'
//   node oauth-client.mjs '{"issuer":"https://…","clientId":"…","key":"PEM of PKCS #8","kid":"…", …}'
//
// Prints one line of JSON: the claims that it accepted, or the error. NODE_EXTRA_CA_CERTS names the CA to trust.

import * as oauth from 'oauth4webapi';
import { importPKCS8 } from 'jose';

const given = JSON.parse(process.argv[2]);

async function run() {
  const url = new URL(given.issuer);
  const discovered = await oauth.discoveryRequest(url, { algorithm: 'oauth2' });
  const server = await oauth.processDiscoveryResponse(url, discovered);
  const client = { client_id: given.clientId };
  const authentication = given.key
    ? oauth.PrivateKeyJwt({ key: await importPKCS8(given.key, 'ES256'), kid: given.kid })
    : oauth.ClientSecretBasic(given.secret);
  const parameters = new URLSearchParams({ scope: given.scope, audience: given.audience });
  const response = await oauth.clientCredentialsGrantRequest(server, client, authentication, parameters);
  const cacheControl = response.headers.get('cache-control');
  const answer = await oauth.processClientCredentialsResponse(server, client, response);
  const request = new Request(given.audience, { headers: { authorization: `Bearer ${answer.access_token}` } });
  const claims = await oauth.validateJwtAccessToken(server, request, given.audience);
  return { claims, cacheControl, tokenType: answer.token_type, expiresIn: answer.expires_in };
}

run().then(
  (result) => console.log(JSON.stringify(result)),
  (error) => console.log(JSON.stringify({ error: String(error.error ?? error.code ?? error), status: error.status })),
);
