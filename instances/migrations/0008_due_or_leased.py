from __future__ import annotations

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("instances", "0007_measured")]

    operations = [
        migrations.AlterField(
            model_name="instance",
            name="due_at",
            field=models.DateTimeField(
                blank=True, help_text="when the next look is due; null = not by itself, or being looked at", null=True
            ),
        ),
        migrations.RemoveIndex(model_name="instance", name="instance_due"),
        migrations.AddIndex(
            model_name="instance",
            index=models.Index(
                condition=Q(due_at__isnull=False) | Q(leased_until__isnull=False), fields=["due_at"], name="instance_due"
            ),
        ),
    ]
