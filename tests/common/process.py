"""A process under test: the auth contract with handlers that obey commands. Run by test_lifecycle, as a service is."""

import asyncio
import os
import sys
from typing import Any

from boxoffice.auth.v1 import auth_service_pb2 as pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as stubs

from services.common.grpc_server import serve
from services.common.lifecycle import Lifecycle, run
from services.common.settings import CommonSettings, load


class Accounts(stubs.AuthServiceServicer):
    """GetJwks answers after the time that BOXOFFICE_TEST_ANSWER_SECONDS says."""

    async def GetJwks(self, request: Any, context: Any) -> Any:
        sys.stderr.write("entered\n")
        await asyncio.sleep(float(os.environ.get("BOXOFFICE_TEST_ANSWER_SECONDS", "0")))
        return pb.GetJwksResponse(keys=[pb.Jwk(kid="k1")])


async def _closed(name: str) -> None:
    await asyncio.sleep(0)
    sys.stderr.write(f"closed {name}\n")


async def _wire(lifecycle: Lifecycle) -> None:
    settings = CommonSettings()
    lifecycle.defer(lambda: _closed("first"))
    if "hang" in sys.argv:
        sys.stderr.write("hanging\n")
        await asyncio.Event().wait()
    lifecycle.defer(lambda: _closed("second"))
    servicer = Accounts()  # type: ignore[abstract] # answers what the test asks
    await serve(lifecycle, settings, [(stubs.add_AuthServiceServicer_to_server, servicer)], None)
    if "fail" in sys.argv:
        raise ConnectionError("the database does not answer")


if __name__ == "__main__":
    run("auth", load(CommonSettings), _wire)
