"""SATOSA's side towards home institutions, replaced by a page that asks for a name. Runs in the labs' environment."""

from satosa.backends.base import BackendModule
from satosa.internal import AuthenticationInformation, InternalData
from satosa.response import BadRequest, Response

PAGE = """<!doctype html><title>Who are you?</title>
<form method="post" action="/{name}/chosen"><input name="account"><button>Sign in</button></form>"""


class People(BackendModule):
    def __init__(self, done, internal_attributes, config, base_url, name):
        super().__init__(done, internal_attributes, base_url, name)
        self.people = config["people"]

    def start_auth(self, context, internal_request):
        return Response(PAGE.format(name=self.name))

    def register_endpoints(self):
        return [(f"^{self.name}/chosen$", self.chosen)]

    def chosen(self, context, *_):
        person = self.people.get(context.request.get("account"))
        if person is None:
            return BadRequest("nobody of this name")
        shown = AuthenticationInformation(auth_class_ref="https://refeds.org/profile/sfa", issuer=self.base_url)
        return self.auth_callback_func(
            context, InternalData(auth_info=shown, subject_id=person["subject"], attributes=person["says"])
        )

    def get_metadata_desc(self):
        return []
