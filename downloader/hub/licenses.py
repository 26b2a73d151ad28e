"""The Hub's license names as SPDX identifiers.

Source: https://huggingface.co/docs/hub/repositories-licenses and SPDX license list 3.27.
"""

import re

# The Hub writes SPDX identifiers in lower case; these are the ones whose case differs.
_SPDX = """
Apache-2.0 MIT AFL-3.0 Artistic-2.0 BSL-1.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear
C-UDA-1.0 CC0-1.0 CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-BY-NC-2.0
CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-ND-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0 CC-BY-NC-SA-2.0
CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0 CDLA-Sharing-1.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0 WTFPL
ECL-2.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 AGPL-3.0 GFDL-1.3 GPL-2.0 GPL-3.0 LGPL-2.1 LGPL-3.0
LPPL-1.3c MS-PL MPL-2.0 ODbL-1.0 ODC-By-1.0 OFL-1.1 OSL-3.0 PostgreSQL NCSA Unlicense Zlib ISC
PDDL-1.0
"""
_BY_LOWER_CASE = {name.lower(): name for name in _SPDX.split()} | {
    "agpl-3.0": "AGPL-3.0-only",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-3.0": "GPL-3.0-only",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "odbl": "ODbL-1.0",
    "odc-by": "ODC-By-1.0",
    "pddl": "PDDL-1.0",
}


def spdx_from_hub(license_id: str | None, name: str | None = None) -> str | None:
    """Return an SPDX license expression for what a model card says.

    Args:
        license_id: The card's ``license``.
        name: The card's ``license_name``, where ``license`` is ``other``.

    >>> spdx_from_hub("apache-2.0"), spdx_from_hub("bigcode-openrail-m")
    ('Apache-2.0', 'LicenseRef-bigcode-openrail-m')
    >>> spdx_from_hub("other", "chatglm3 license"), spdx_from_hub(None)
    ('LicenseRef-chatglm3-license', None)
    """
    if not license_id or license_id == "unknown":
        return None
    known = _BY_LOWER_CASE.get(license_id.lower())
    if known:
        return known
    text = name if license_id == "other" and name else license_id
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")
