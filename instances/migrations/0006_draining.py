from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("instances", "0005_job_holder")]

    operations = [
        migrations.AddField(
            model_name="provider",
            name="draining_at",
            field=models.DateTimeField(blank=True, help_text="since when nothing new starts on it", null=True),
        ),
        migrations.AddField(
            model_name="provider",
            name="draining_because",
            field=models.CharField(
                blank=True, db_default="", default="", help_text="told to people", max_length=300
            ),
        ),
    ]
