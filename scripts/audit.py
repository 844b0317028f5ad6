"""Ask a vulnerability database about every release in requirements.lock: `python scripts/audit.py`.

Exit code 1 when a locked release has a known vulnerability. Where no database can be reached one note says so and the
exit code is 0. A database counts as reached only if it knows a release that is known to be vulnerable: package mirrors
answer too, with nothing.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
SERVICES = ("osv", "pypi")
KNOWN_BAD = "jinja2==2.10"  # CVE-2019-10906 and later
PATIENCE = 10, 300  # seconds for one answer, and for all


def vulnerabilities(service: str, requirements: Path) -> dict[str, list[str]] | None:
    """What ``service`` knows of the pinned ``requirements``: release -> advisories, or None where it gave no answer."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--disable-pip", "--no-deps"]
    command += ["--vulnerability-service", service, "--timeout", str(PATIENCE[0]), "--format", "json", "--desc", "off"]
    try:
        ran = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, timeout=PATIENCE[1])
        releases = json.loads(ran.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):  # pip-audit prints no JSON where it failed
        return None
    audited = [release for release in releases if "skip_reason" not in release]
    return {
        f"{release['name']} {release['version']}": [
            f"{found['id']} ({', '.join(found['aliases']) or 'no alias'}), fixed in {', '.join(found['fix_versions']) or '-'}"
            for found in release["vulns"]
        ]
        for release in audited
    }


def main(lock: Path = LOCK, services: tuple[str, ...] = SERVICES) -> int:
    """Audit ``lock`` with the first of ``services`` that answers; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder, "canary.txt")
        canary.write_text(KNOWN_BAD + "\n")
        reached = [service for service in services if any((vulnerabilities(service, canary) or {}).values())]
    for service in reached:
        if (answer := vulnerabilities(service, lock)) is not None:
            found = {release: advisories for release, advisories in answer.items() if advisories}
            for release, advisories in found.items():
                print(f"{release}: {'; '.join(advisories)}")
            print(
                f"Audit by {service}: {len(answer)} releases of {lock.name}, {len(found)} with known vulnerabilities."
            )
            return 1 if found else 0
    print(f"Note: no vulnerability database can be reached ({', '.join(services)}), so {lock.name} was not audited.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
