// The provider's pages: plain HTML, one style sheet of its own, nothing from outside, no script.
import { ACCOUNTS } from './accounts.mjs';

export function escape(text) {
  return String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

/** The policy of every page; a form's chain of redirects ends at the portal's callback. */
export function headers(portal) {
  return {
    'Content-Security-Policy':
      `default-src 'none'; style-src 'self'; form-action 'self' ${portal}; frame-ancestors 'none'; base-uri 'none'`,
    'Cache-Control': 'no-store',
    'Referrer-Policy': 'same-origin',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
  };
}

export function page(title, content) {
  return `<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<title>${escape(title)} · Demo identity provider</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/style.css">
</head>
<body>
<main>
<p class="demo">Demo identity provider</p>
<h1>${escape(title)}</h1>
${content}
</main>
</body>
</html>
`;
}

export function signInPage(uid, { login = '', failed = false } = {}) {
  const error = failed
    ? '<p class="error" id="error" role="alert"><strong>That did not work.</strong> The password is the account’s name.</p>'
    : '';
  const described = failed ? ' aria-invalid="true" aria-describedby="error"' : '';
  const names = ACCOUNTS.map((account) => `<li><code>${account.login}</code> (${escape(account.claims.name)})</li>`);
  return page('Sign in', `${error}
<form method="post" action="/interaction/${escape(uid)}" autocomplete="on">
<label for="login">Account</label>
<input id="login" name="login" value="${escape(login)}" autocomplete="username" autocapitalize="none" required autofocus${described}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required${described}>
<button type="submit">Sign in</button>
</form>
<section>
<h2>People of the demo</h2>
<ul>${names.join('')}</ul>
<p>The password is the account’s name. These people are invented; a real portal sends you to your own institution.</p>
</section>`);
}

export function expiredPage() {
  return page('This sign-in is over', '<p>It is too old, or was used already. Go back to the portal and sign in again.</p>');
}

export function errorPage({ error, error_description: description }) {
  return page('This did not work', `<p>${escape(description ?? error)}</p><p><code>${escape(error)}</code></p>`);
}

export function signOutPage(form) {
  return page('Sign out here too?', `${form}
<button type="submit" form="op.logoutForm" value="yes" name="logout" autofocus>Sign out</button>
<button type="submit" form="op.logoutForm" class="quiet">Stay signed in</button>`);
}

export function signedOutPage() {
  return page('You are signed out', '<p>You may close this page.</p>');
}
