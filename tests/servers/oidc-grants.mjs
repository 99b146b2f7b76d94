// What else does the authorization server of the tests grant, and to whom? The JWT bearer grant (RFC 7523 §2.1), token
// exchange (RFC 8693), and clients that authenticate with a token of their platform (RFC 7523 §2.2, as for Kubernetes and
// JWT-SVIDs), which the library does not bring.

import { createLocalJWKSet, jwtVerify } from 'jose';
import { errors } from 'oidc-provider';
import * as helpers from 'oidc-provider/lib/helpers/grants.js';

export const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const ASSERTION_TYPES = ['jwt-bearer', 'jwt-spiffe'].map((type) => `urn:ietf:params:oauth:client-assertion-type:${type}`);

/// The grants that the settings ask for.
export function registerGrants(provider, given, ownKeys) {
  if (given.jwtBearer) {
    const keys = createLocalJWKSet(given.jwtBearer.jwks);
    provider.registerGrantType(JWT_BEARER, (ctx) => jwtBearer(provider, ctx, keys), parameters('assertion'), 'resource');
  }
  if (given.tokenExchange) {
    const sets = [ownKeys, ...(given.tokenExchange.jwks ? [given.tokenExchange.jwks] : [])].map((set) => createLocalJWKSet(set));
    const names = ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'audience'];
    const handler = (ctx) => tokenExchange(provider, ctx, sets, given.tokenExchange);
    provider.registerGrantType(TOKEN_EXCHANGE, handler, parameters(...names), 'resource');
  }
}

const parameters = (...names) => ['scope', 'resource', ...names];

async function jwtBearer(provider, ctx, keys) {
  const { assertion } = ctx.oidc.params;
  if (!assertion) throw new errors.InvalidRequest("missing required parameter 'assertion'");
  const claims = await verified(assertion, [keys], { audience: [provider.issuer, ctx.oidc.urlFor('token')] });
  ctx.state.subject = { sub: claims.sub };
  await answer(provider, ctx, {});
}

async function tokenExchange(provider, ctx, sets, { issuedTokenType, tokenType }) {
  const { params, client } = ctx.oidc;
  if (!params.subject_token || !params.subject_token_type) {
    throw new errors.InvalidRequest('subject_token and subject_token_type go together (RFC 8693 §2.1)');
  }
  if (!params.actor_token !== !params.actor_token_type) {
    throw new errors.InvalidRequest('actor_token_type if and only if actor_token (RFC 8693 §2.1)');
  }
  const subject = await verified(params.subject_token, sets, {});
  const actor = params.actor_token ? (await verified(params.actor_token, sets, {})).sub : client.clientId;
  ctx.state.subject = { sub: subject.sub, act: { sub: actor, ...(subject.act ? { act: subject.act } : {}) } };
  params.resource ??= params.audience;
  await answer(provider, ctx, { issuedTokenType: issuedTokenType ?? ACCESS_TOKEN, tokenType });
}

async function verified(token, sets, options) {
  for (const keys of sets) {
    try {
      return (await jwtVerify(token, keys, { ...options, requiredClaims: ['sub', 'exp'] })).payload;
    } catch {
      // The next set may have its key.
    }
  }
  throw new errors.InvalidGrant('the assertion or token does not verify');
}

/// As for client credentials, with the bindings that the client asks for.
async function answer(provider, ctx, { issuedTokenType, tokenType }) {
  const proof = await helpers.validateDpop(provider, ctx);
  const [resource] = await helpers.resolveRequestedResources(provider, ctx);
  const scopes = [...helpers.validateClientScope(provider, ctx)];
  const token = new provider.ClientCredentials({ client: ctx.oidc.client, scope: scopes.join(' ') || undefined });
  if (resource) {
    token.resourceServer = resource;
    token.scope = scopes.filter((scope) => resource.scope.split(' ').includes(scope)).join(' ') || undefined;
  }
  const certificate = helpers.checkMtlsCert(provider, ctx);
  if (certificate) token.setThumbprint('x5t', certificate);
  if (proof) {
    await helpers.checkDpopReplay(provider, ctx, proof, ctx.oidc.client.clientId);
    token.setThumbprint('jkt', proof.thumbprint);
  }
  helpers.checkDpopRequired(provider, ctx, proof);
  ctx.oidc.entity('ClientCredentials', token);
  ctx.body = helpers.buildTokenResponse(provider, {
    accessToken: await token.save(),
    expiresIn: token.expiration,
    scope: token.scope || undefined,
    tokenType: tokenType ?? token.tokenType,
    issuedTokenType,
  });
}

/// Into a form with a workload's own token as its assertion: the client that the token's subject is, with its secret. The
/// library knows only assertions that the client signs itself.
export async function authenticateWorkload({ form, headers }, { jwks, issuer: platform, clients }, issuer) {
  if (!form.client_assertion || !ASSERTION_TYPES.includes(form.client_assertion_type)) return;
  const options = { audience: issuer, requiredClaims: ['sub', 'exp'], ...(platform ? { issuer: platform } : {}) };
  const token = await jwtVerify(form.client_assertion, createLocalJWKSet(jwks), options).catch(() => undefined);
  const client = token && clients.find(({ subject }) => subject === token.payload.sub);
  // What is left names nobody whom the library knows: invalid_client.
  if (!client || (form.client_id ?? client.id) !== client.id) return void delete form.client_id;
  for (const name of ['client_assertion', 'client_assertion_type', 'client_id']) delete form[name];
  const pair = [client.id, client.secret].map(encodeURIComponent).join(':');
  headers.authorization = `Basic ${Buffer.from(pair).toString('base64')}`;
}
