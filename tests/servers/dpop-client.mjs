// A DPoP client that is not ours (npm oauth4webapi and jose), pointed at a resource server of ours (RFC 9449 §7). It makes a
// key, gets a token that is bound to it (RFC 7638, RFC 7800) from the issuer whose key it is given, and calls twice: with a
// proof, and with the same token as a bearer.
//
//   node dpop-client.mjs '{"alg":"ES256","key":"PEM of PKCS #8","kid":"…","claims":{…},"url":"http://…","method":"GET"}'
//
// Prints one line of JSON: the status and reason of each call.

import * as oauth from 'oauth4webapi';
import { SignJWT, importPKCS8 } from 'jose';

const given = JSON.parse(process.argv[2]);
const client = { client_id: given.claims.client_id };
const insecure = { [oauth.allowInsecureRequests]: true };

async function answer(call) {
  const response = await call.catch((error) => error.response ?? Promise.reject(error));
  return {
    status: response.status,
    reason: response.headers.get('x-countersign-reason'),
    challenge: response.headers.get('www-authenticate'),
    body: await response.text(),
  };
}

const pair = await oauth.generateKeyPair(given.alg, { extractable: true });
const DPoP = oauth.DPoP(client, pair);
const token = await new SignJWT({ ...given.claims, cnf: { jkt: await DPoP.calculateThumbprint() } })
  .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: given.kid })
  .sign(await importPKCS8(given.key, 'ES256'));

const url = new URL(given.url);
const call = (options) =>
  answer(oauth.protectedResourceRequest(token, given.method, url, undefined, undefined, options));
const proven = await call({ DPoP, ...insecure });
const bearer = await call(insecure);
console.log(JSON.stringify({ proven, bearer }));
