// Signing and cookie keys, made once and kept where only the owner reads them, so that a restart signs nobody out.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { closeSync, fchmodSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';

export function keysFrom(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    if (error.code !== 'ENOENT') throw new Error(`KEYS_FILE ${path} cannot be read: ${error.message}`);
  }
  const keys = make();
  const draft = `${path}.${process.pid}`;
  const file = openSync(draft, 'wx', 0o600);
  fchmodSync(file, 0o600);
  writeFileSync(file, JSON.stringify(keys));
  closeSync(file);
  renameSync(draft, path);
  return keys;
}

function make() {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const jwk = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: randomBytes(8).toString('hex') };
  return { jwks: { keys: [jwk] }, cookies: [randomBytes(32).toString('base64url')] };
}
