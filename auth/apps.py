from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "auth"
    label = "accounts"
    verbose_name = "People and sign-in"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from auth import personal

        personal.register()
