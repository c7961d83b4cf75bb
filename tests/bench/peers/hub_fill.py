"""Fill JupyterHub's database with users, some of whose servers run. Executed by the peers' interpreter.

hub_fill.py URL USERS RUNNING BACKEND_PORT
"""

import datetime
import sys

from jupyterhub import orm
from sqlalchemy import insert, select


def main(url: str, users: int, running: int, port: int) -> None:
    session = orm.new_session_factory(url)()
    role = session.query(orm.Role).filter_by(name="user").one()
    now = datetime.datetime(2026, 1, 1)
    people, maps = orm.User.__table__, orm.Base.metadata.tables["user_role_map"]
    rows = [{"name": f"big{n:06}", "admin": False, "created": now, "cookie_id": f"c{n}"} for n in range(users)]
    session.execute(insert(people), rows)
    made = session.execute(select(people.c.id, people.c.name).where(people.c.name.like("big%"))).all()
    session.execute(insert(maps), [{"user_id": row.id, "role_id": role.id} for row in made])
    servers, spawners = orm.Server.__table__, orm.Spawner.__table__
    for row in made[:running]:
        server = {"proto": "http", "ip": "127.0.0.1", "port": port, "base_url": f"/user/{row.name}/", "cookie_name": ""}
        key = session.execute(insert(servers).values(**server)).inserted_primary_key[0]
        spawner = {"user_id": row.id, "server_id": key, "name": "", "state": {"up": True}, "started": now}
        session.execute(insert(spawners).values(**spawner, last_activity=now))
    idle = [{"user_id": row.id, "server_id": None, "name": "", "state": {}} for row in made[running:]]
    session.execute(insert(spawners), idle)
    session.commit()


if __name__ == "__main__":
    main(sys.argv[1], *(int(text) for text in sys.argv[2:]))
