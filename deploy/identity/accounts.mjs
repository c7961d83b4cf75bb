// Three invented people. Claims have the shape in which an eduTEAMS-type proxy sends them: lists where one would
// expect texts, groups and contact data from userinfo alone.
import { createHash, timingSafeEqual } from 'node:crypto';

const SCOPE = 'eduteams.example';
const GROUP = `urn:geant:${SCOPE}:service:umbrella.example:group:umbrella`;
const ASSURANCE = 'https://refeds.org/assurance';

function person(login, given, family, id, entitlements) {
  const subject = createHash('sha256').update(`beamport demo ${login}`).digest('hex').slice(0, 32);
  const email = `${login}@facility.example`;
  return {
    login,
    claims: {
      sub: `${subject}@${SCOPE}`,
      name: `${given} ${family}`,
      given_name: given,
      family_name: family,
      email,
      email_verified: true,
      voperson_verified_email: [email],
      voperson_id: [`${subject}@umbrella.example`],
      schac_home_organization: 'facility.example',
      eduperson_scoped_affiliation: [`member@${SCOPE}`],
      voperson_external_affiliation: ['member@facility.example'],
      eduperson_entitlement: [`${GROUP}#umbrella.example`, ...entitlements.map((e) => `${GROUP}:${e}#umbrella.example`)],
      eduperson_assurance: [ASSURANCE, `${ASSURANCE}/version/2`, `${ASSURANCE}/ID/unique`, `${ASSURANCE}/IAP/medium`],
      facility_person_id: id,
    },
  };
}

export const ACCOUNTS = [
  person('scientist', 'Ada', 'Lamprecht', 'X-1001', ['xfel-users:role=pi']),
  person('collaborator', 'Ben', 'Okafor', 'X-1002', ['xfel-users']),
  person('operator', 'Olga', 'Perator', 'X-1003', ['xfel-staff']),
];

/** Which scope brings which claims; all but `sub` come from userinfo only. */
export const CLAIMS = {
  openid: ['sub'],
  profile: [
    'name', 'given_name', 'family_name', 'schac_home_organization',
    'eduperson_scoped_affiliation', 'voperson_external_affiliation', 'facility_person_id',
  ],
  email: ['email', 'email_verified', 'voperson_verified_email'],
  voperson_id: ['voperson_id'],
  eduperson_entitlement: ['eduperson_entitlement'],
  eduperson_assurance: ['eduperson_assurance'],
};

export function findBySubject(subject) {
  return ACCOUNTS.find((account) => account.claims.sub === subject);
}

/** The account whose name and password these are (the password is the name); takes as long for a wrong name. */
export function checkPassword(login, password) {
  const account = ACCOUNTS.find((known) => known.login === login);
  const right = timingSafeEqual(digest(password), digest(account?.login ?? 'nobody'));
  return account && right ? account : undefined;
}

function digest(text) {
  return createHash('sha256').update(String(text)).digest();
}
