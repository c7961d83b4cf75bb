"""A canaille with a few people in memory, on loopback. Runs in the labs' environment."""

import json
import secrets
import sys
from pathlib import Path

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from werkzeug.serving import run_simple


def fill(described):
    backend = Backend.instance
    people = {}
    for person in described["people"]:
        people[person["login"]] = models.User(
            user_name=person["login"],
            password=person["login"],
            given_name=person["given"],
            family_name=person["family"],
            formatted_name=f"{person['given']} {person['family']}",
            emails=[person["email"]],
        )
        backend.save(people[person["login"]])
    members = [people[person["login"]] for person in described["people"] if person["member"]]
    backend.save(models.Group(display_name=described["group"], members=members))
    client = models.Client(
        client_name="Beamport",
        grant_types=["authorization_code"],
        response_types=["code"],
        scope=["openid", "profile", "email", "groups"],
        token_endpoint_auth_method="client_secret_basic",
        **described["client"],
    )
    backend.save(client)
    client.audience = [client]  # else its tokens name no audience
    backend.save(client)


def main(described):
    address = f"127.0.0.1:{described['port']}"
    app = create_app(
        {
            "SECRET_KEY": secrets.token_urlsafe(),
            "SERVER_NAME": address,
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "memory"},
            "CANAILLE_OIDC": {
                "TRUSTED_DOMAINS": [],
                "ACTIVE_JWKS": [RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)],
            },
        }
    )
    with app.app_context():
        fill(described)
    run_simple("127.0.0.1", described["port"], app, threaded=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
