from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("instances", "0006_draining")]

    operations = [
        migrations.CreateModel(
            name="Measured",
            fields=[
                (
                    "instance",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="measured",
                        serialize=False,
                        to="instances.instance",
                    ),
                ),
                ("at", models.DateTimeField()),
                ("cpu", models.FloatField(help_text="cores at work", null=True)),
                ("memory", models.BigIntegerField(help_text="bytes in use", null=True)),
                ("disk_used", models.BigIntegerField(help_text="bytes of what goes with the instance", null=True)),
                ("disk_size", models.BigIntegerField(null=True)),
            ],
        ),
    ]
