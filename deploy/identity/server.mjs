// The demo's identity provider: npm `oidc-provider` with three invented people and a password page of its own.
// It listens on loopback alone and refuses to start outside the demo.
import { createServer } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { readFileSync } from 'node:fs';

import { Provider } from 'oidc-provider';

import { CLAIMS, checkPassword, findBySubject } from './accounts.mjs';
import { keysFrom } from './keys.mjs';
import * as pages from './pages.mjs';
import { Store } from './store.mjs';

const LARGEST_FORM = 4096;

function setting(name) {
  const value = process.env[name];
  if (!value) stop(`${name} is not set.`);
  return value;
}

function stop(message) {
  console.error(`Demo identity provider: ${message}`);
  process.exit(2);
}

if (process.env.BEAMPORT_DEMO !== '1') stop('it knows invented people only and starts only with BEAMPORT_DEMO=1.');

const port = Number(setting('PORT'));
const issuer = setting('ISSUER');
const redirectUri = setting('REDIRECT_URI');
const portal = new URL(redirectUri).origin;
const keys = keysFrom(setting('KEYS_FILE'));
const style = readFileSync(new URL('./style.css', import.meta.url));

/** Our client gets what it asks for: there is no consent page. */
async function grantEverything(ctx) {
  const grant = new ctx.oidc.provider.Grant({
    clientId: ctx.oidc.client.clientId,
    accountId: ctx.oidc.session.accountId,
  });
  grant.addOIDCScope([...ctx.oidc.requestParamScopes].join(' '));
  grant.addOIDCClaims([...ctx.oidc.requestParamClaims]);
  await grant.save();
  return grant;
}

const provider = new Provider(issuer, {
  adapter: Store,
  jwks: keys.jwks,
  cookies: { keys: keys.cookies, short: { sameSite: 'lax' }, long: { sameSite: 'lax' } },
  clients: [
    {
      client_id: setting('CLIENT_ID'),
      client_secret: readFileSync(setting('CLIENT_SECRET_FILE'), 'utf8').trim(),
      client_name: 'Beamport',
      redirect_uris: [redirectUri],
      post_logout_redirect_uris: [`${portal}/auth/signed-out/`],
      require_auth_time: true,
      grant_types: ['authorization_code'],
      response_types: ['code'],
      token_endpoint_auth_method: 'client_secret_basic',
    },
  ],
  pkce: { required: () => true },
  responseTypes: ['code'],
  clientAuthMethods: ['client_secret_basic'],
  scopes: Object.keys(CLAIMS),
  claims: CLAIMS,
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  loadExistingGrant: grantEverything,
  findAccount: (_, subject) => {
    const account = findBySubject(subject);
    return account && { accountId: subject, claims: async () => account.claims };
  },
  features: {
    devInteractions: { enabled: false },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: (ctx, form) => show(ctx, pages.signOutPage(form)),
      postLogoutSuccessSource: (ctx) => show(ctx, pages.signedOutPage()),
    },
  },
  renderError: (ctx, out) => show(ctx, pages.errorPage(out)),
  ttl: { AccessToken: 300, AuthorizationCode: 60, IdToken: 300, Interaction: 600, Session: 12 * 3600, Grant: 12 * 3600 },
});

function show(ctx, html) {
  ctx.set(pages.headers(portal));
  ctx.type = 'html';
  ctx.body = html;
}

function send(response, status, html) {
  response.writeHead(status, { ...pages.headers(portal), 'Content-Type': 'text/html; charset=utf-8' });
  response.end(html);
}

async function formOf(request) {
  let text = '';
  for await (const part of request) {
    text += part;
    if (text.length > LARGEST_FORM) return undefined;
  }
  return new URLSearchParams(text);
}

/** GET shows the password page, POST checks the password. The interaction is bound to the browser by a cookie. */
async function interaction(request, response) {
  let details;
  try {
    details = await provider.interactionDetails(request, response);
  } catch {
    return send(response, 400, pages.expiredPage());
  }
  if (request.url !== `/interaction/${details.uid}`) return send(response, 400, pages.expiredPage());
  if (request.method === 'GET') return send(response, 200, pages.signInPage(details.uid));
  if (request.method !== 'POST') return send(response, 405, pages.expiredPage());
  if (request.headers.origin && request.headers.origin !== issuer) {
    return send(response, 403, pages.expiredPage());
  }
  const form = await formOf(request);
  if (!form) return send(response, 413, pages.expiredPage());
  const account = checkPassword(form.get('login') ?? '', form.get('password') ?? '');
  if (!account) {
    return send(response, 401, pages.signInPage(details.uid, { login: form.get('login') ?? '', failed: true }));
  }
  const login = { accountId: account.claims.sub, acr: 'https://refeds.org/profile/sfa' };
  return provider.interactionFinished(request, response, { login }, { mergeWithLastSubmission: false });
}

const answerProtocol = provider.callback();

function answer(request, response) {
  if (request.url === '/style.css') {
    response.writeHead(200, { 'Content-Type': 'text/css', 'X-Content-Type-Options': 'nosniff' });
    response.end(style);
  } else if (request.url.startsWith('/interaction/')) {
    interaction(request, response).catch((error) => {
      console.error(`Demo identity provider: ${error.message}`);
      if (!response.headersSent) send(response, 500, pages.errorPage({ error: 'server_error' }));
    });
  } else {
    answerProtocol(request, response);
  }
}

const certificate = process.env.TLS_CERT_FILE;
const tls = certificate && { cert: readFileSync(certificate), key: readFileSync(setting('TLS_KEY_FILE')) };
const server = tls ? createSecureServer(tls, answer) : createServer(answer);

server.on('error', (error) => stop(error.message));
server.listen(port, '127.0.0.1', () => console.log(`Demo identity provider ready at ${issuer}`));
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeAllConnections();
  });
}
