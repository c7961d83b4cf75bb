from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("instances", "0004_by_role")]

    operations = [
        migrations.AddField(
            model_name="job",
            name="holder",
            field=models.UUIDField(blank=True, help_text="who does it until it is due", null=True),
        ),
    ]
