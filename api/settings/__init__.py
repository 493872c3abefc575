"""Settings: one YAML file, a few `TRUSTWATCH_*` variables, and no default for any secret.

Declared in `root.Settings` and the parts below it; read by `load_settings`; documented by `settings_table`, to which a
test holds `docs/settings.md`. Nothing else in Trustwatch reads the environment.
"""

from .access import CallerSettings, IssuerSettings, RegisteredAgent, VerificationSettings
from .actuators import ActuatorAuthSettings, ActuatorSettings
from .console import ConsoleGrantSettings, ConsoleOidcSettings, ConsoleSettings
from .gateway import GatewayClientSettings, GatewayIssuerSettings, GatewaySettings, IntrospectionServerSettings
from .hooks import HookSettings
from .load import OVERRIDES, load_process_settings, load_settings
from .privacy import PrivacySettings, RetentionSettings
from .risk import AlertBudget, LevelPolicy, ServiceRiskSettings, TokenPolicySettings
from .root import Settings
from .secret import Secret
from .service import DeadLetterSettings, ListenSettings, PipelineSettings, TenantSettings, WebhookSettings
from .table import settings_table

__all__ = [
    "OVERRIDES",
    "ActuatorAuthSettings",
    "ActuatorSettings",
    "AlertBudget",
    "CallerSettings",
    "ConsoleGrantSettings",
    "ConsoleOidcSettings",
    "ConsoleSettings",
    "DeadLetterSettings",
    "GatewayClientSettings",
    "GatewayIssuerSettings",
    "GatewaySettings",
    "HookSettings",
    "IntrospectionServerSettings",
    "IssuerSettings",
    "LevelPolicy",
    "ListenSettings",
    "PipelineSettings",
    "PrivacySettings",
    "RegisteredAgent",
    "RetentionSettings",
    "Secret",
    "ServiceRiskSettings",
    "Settings",
    "TenantSettings",
    "TokenPolicySettings",
    "VerificationSettings",
    "WebhookSettings",
    "load_process_settings",
    "load_settings",
    "settings_table",
]
