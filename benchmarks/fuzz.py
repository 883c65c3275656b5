"""Requests that schemathesis makes up from openapi.json, sent to a service that runs already.

benchmarks/serve.py starts this file in an interpreter that has schemathesis and perhaps nothing
else: it imports neither torch nor replearn. Prints one line of JSON.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}


def first_part(pair: tuple[bytes, int]) -> bytes:
    """Return a file that is cut off at a length."""
    content, length = pair
    return content[:length]


def teach_image_types(files: Sequence[bytes]) -> None:
    """Let schemathesis send random bytes and parts of real files; its own choice is one image."""
    import schemathesis
    from hypothesis import strategies as st

    cut_off = st.tuples(st.sampled_from(files), st.integers(0, 3000)).map(first_part)
    for content_type in KINDS:
        schemathesis.openapi.media_type(content_type, st.binary(max_size=3000) | cut_off)


class Fuzzer:
    """Sends cases and counts the answers."""

    def __init__(self, cases: int) -> None:
        self.cases = cases  # of one operation, valid and invalid ones each
        self.answers: Counter[str] = Counter()  # by path and status
        self.problems: list[str] = []
        self.server_errors = 0

    def run(self, operation: Any, mode: Any) -> None:
        """Send the cases of one operation; mode: valid or invalid ones."""
        from hypothesis import HealthCheck, given, settings

        @settings(
            max_examples=self.cases,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            self.ask(operation, case)

        try:
            ask()
        except Exception as error:
            kind = type(error).__name__
            if kind != "Unsatisfiable":  # any body is valid as bytes: none can be made invalid
                self.problems.append(f"{operation.path} {mode.value}: {kind}: {error}"[:500])

    def ask(self, operation: Any, case: Any) -> None:
        """Send one case, count the answer, and compare it with what openapi.json promises."""
        from schemathesis.checks import not_a_server_error
        from schemathesis.specs.openapi import checks

        answer = case.call()
        self.answers[f"{operation.path} {answer.status_code}"] += 1
        self.server_errors += answer.status_code >= 500
        case.validate_response(
            answer,
            checks=[
                not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_headers_conformance,
                checks.response_schema_conformance,
            ],
        )


def main() -> None:
    """Send the cases and print how they were answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", help="of the service")
    parser.add_argument("files", type=Path, help="a folder of images, parts of which are sent")
    parser.add_argument("--cases", type=int, default=1000, help="of each operation, about")
    args = parser.parse_args()

    import schemathesis

    teach_image_types([path.read_bytes() for path in sorted(args.files.iterdir())])
    fuzzer = Fuzzer(-(-args.cases // 3))
    schema = schemathesis.openapi.from_url(f"{args.address}/openapi.json")
    for operation in schema.get_all_operations():
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            fuzzer.run(operation.ok(), mode)
    summary = {
        "cases": sum(fuzzer.answers.values()),
        "answers": dict(sorted(fuzzer.answers.items())),
        "problems": fuzzer.problems,
        "server_errors": fuzzer.server_errors,
        "schemathesis": schemathesis.__version__,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
