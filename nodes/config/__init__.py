"""What a node is told about itself: YAML files into frozen typed structs, checked as a whole.

`parts` is what roles share, `hospital`, `patient` and `relay` are one role each, `read` makes them from files. Whether keys and
certificates are good is asked when they are loaded (`pki`), not here.
"""

from nodes.config.enrolment import EnrolmentConfig
from nodes.config.hospital import HospitalConfig
from nodes.config.parts import (
    AuthorityAddress,
    EncryptionKeyRules,
    HealthConfig,
    IdentityFiles,
    LogConfig,
    RelayAddress,
    RevocationRules,
    Trust,
)
from nodes.config.patient import HospitalAddress, PatientConfig, Policy, PrivacyBudget, Vouched
from nodes.config.read import admin_of, check_hospital, check_patient, check_relay, identity_of, with_values
from nodes.config.relay import RelayConfig, RelayQuota

__all__ = [
    "AuthorityAddress",
    "EncryptionKeyRules",
    "EnrolmentConfig",
    "HealthConfig",
    "HospitalAddress",
    "HospitalConfig",
    "IdentityFiles",
    "LogConfig",
    "PatientConfig",
    "Policy",
    "PrivacyBudget",
    "RelayAddress",
    "RelayConfig",
    "RelayQuota",
    "RevocationRules",
    "Trust",
    "Vouched",
    "admin_of",
    "check_hospital",
    "check_patient",
    "check_relay",
    "identity_of",
    "with_values",
]
