"""Who asks: challenges, credentials and tokens of the distribution specification. No I/O."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Credential:
    """A user's secret for one registry; never shown by repr.

    Args:
        username: May be empty where there is only an identity token.
        password: Or an access token, as registries take it.
        identity_token: An OAuth2 refresh token (``docker login`` at Azure and others).
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
