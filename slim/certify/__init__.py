"""Check the gradient over chunks against the gradient of the whole sequence.

    certificate = certify(step, params, state, xs, policy="rewind", rewind=undo)
    print(certificate)
    assert certificate.ok, certificate.describe_failure()

`python -m slim.certify --config=…` checks the model of a config.
"""

from slim.certify.certificate import Certificate, Check
from slim.certify.certify_step import certify

__all__ = ["Certificate", "Check", "certify"]
