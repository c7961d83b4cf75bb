// What the provider remembers: in memory, a few thousand entries, gone with the process (a demo's sign-ins may be).
const MOST = 5000;
const entries = new Map();

export class Store {
  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload, expiresIn) {
    const key = this.key(id);
    entries.delete(key); // the newest entry is always last
    entries.set(key, { payload, until: expiresIn ? Date.now() + expiresIn * 1000 : Infinity });
    if (entries.size > MOST) entries.delete(entries.keys().next().value);
  }

  async find(id) {
    return this.read(this.key(id));
  }

  async findByUid(uid) {
    return this.search((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.search((payload) => payload.userCode === userCode);
  }

  async consume(id) {
    const payload = this.read(this.key(id));
    if (payload) payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    entries.delete(this.key(id));
  }

  /** Of this model alone: an interaction names its grant too, and outlives it when another account signs in. */
  async revokeByGrantId(grantId) {
    for (const [key, { payload }] of entries) {
      if (key.startsWith(`${this.model}:`) && payload.grantId === grantId) entries.delete(key);
    }
  }

  read(key) {
    const entry = entries.get(key);
    if (entry && entry.until > Date.now()) return entry.payload;
    entries.delete(key);
    return undefined;
  }

  search(fits) {
    for (const [key, { payload }] of entries) {
      if (key.startsWith(`${this.model}:`) && fits(payload)) return this.read(key);
    }
    return undefined;
  }
}
