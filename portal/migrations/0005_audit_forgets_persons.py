"""Audit rows stay append-only, and forget people: an address after 30 days, names when their owner is erased.

Taking away is all that is let through: the act, its actor's uid, its object, time, result and request id never change.
What an object's id says of a person (their number at the user office, their home's key) goes with the name.
"""

from django.db import migrations, models

FORWARD = """
CREATE OR REPLACE FUNCTION portal_audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    compared portal_auditevent;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        compared := NEW;
        IF NEW.address = '' AND OLD.at < clock_timestamp() - interval '30 days' THEN
            compared.address := OLD.address;
        END IF;
        IF NEW.actor_name LIKE 'deleted-%' THEN
            compared.actor_name := OLD.actor_name;
            IF NEW.identity = '' THEN
                compared.identity := OLD.identity;
            END IF;
        END IF;
        IF NEW.for_name LIKE 'deleted-%' THEN
            compared.for_name := OLD.for_name;
        END IF;
        IF NEW.object_id LIKE 'deleted-%' AND OLD.object_type IN ('person', 'home') THEN
            compared.object_id := OLD.object_id;
        END IF;
        IF compared IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'audit rows are append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
"""
BACKWARD = """
CREATE OR REPLACE FUNCTION portal_audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit rows are append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
"""


class Migration(migrations.Migration):
    dependencies = [("portal", "0004_sess_refused_from")]

    operations = [
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(
                condition=models.Q(("for_uid__isnull", False)), fields=["for_uid", "-id"], name="audit_for"
            ),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
