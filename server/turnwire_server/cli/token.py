"""`turnwire token`: a signed token for trying things out."""

from __future__ import annotations

from typing import Annotated

import typer

from turnwire_server.auth import DEV_TENANT, DEV_USER, dev_secret, make_token
from turnwire_server.cli.common import ConfigOption, fail, read_settings


def token(
    user: Annotated[str, typer.Option(help="The user the token is for (claim sub).")] = DEV_USER,
    tenant: Annotated[str, typer.Option(help="The user's tenant (claim tenant).")] = DEV_TENANT,
    scope: Annotated[list[str] | None, typer.Option(help="A scope; may be given several times.")] = None,
    ttl: Annotated[float, typer.Option(help="Seconds until it expires.", min=1)] = 3600,
    config: ConfigOption = None,
) -> None:
    """Print a token, signed with the configured secret or, in development, with the one in the data directory."""
    settings = read_settings(config)
    auth = settings.auth
    if auth.mode == "dev":
        try:
            secret = dev_secret(settings.server.data_dir)
        except (OSError, ValueError) as error:
            fail(f"cannot make the development secret: {error}")
    elif auth.jwt_secret is not None:
        secret = auth.jwt_secret.get_secret_value()
    else:
        fail("only who holds the private key can sign tokens for this server", 2)
    algorithm = (auth.algorithms or ("HS256",))[0]
    try:
        made = make_token(
            secret,
            user,
            tenant,
            tuple(scope or ()),
            ttl,
            algorithm=algorithm,
            issuer=auth.issuer,
            audience=auth.audience,
        )
    except ValueError as error:
        fail(str(error), 2)
    typer.echo(made)
