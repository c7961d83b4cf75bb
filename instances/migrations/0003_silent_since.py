from django.db import migrations, models


class Migration(migrations.Migration):
    """How long an instance has been silent instead of how often. The old column stays for processes that know no other,
    with a default for those that do not know it any more."""

    dependencies = [
        ("instances", "0002_usage"),
    ]

    operations = [
        migrations.AddField(
            model_name="instance",
            name="silent_since",
            field=models.DateTimeField(
                blank=True, help_text="since when no gateway has heard it", null=True
            ),
        ),
        migrations.AlterField(
            model_name="instance",
            name="silent_reports",
            field=models.PositiveSmallIntegerField(default=0, db_default=0),
        ),
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField(model_name="instance", name="silent_reports")],
        ),
    ]
