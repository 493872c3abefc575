"""Settings: one YAML file, a few `TRUSTWATCH_*` variables, and no default for any secret.

Declared in `root.Settings` and the parts below it; read by `load_settings`; documented by `settings_table`, to which a
test holds `docs/settings.md`. Nothing else in Trustwatch reads the environment.
"""

from .access import CallerSettings, IssuerSettings, RegisteredAgent, VerificationSettings
from .actuators import ActuatorAuthSettings, ActuatorSettings
from .console import ConsoleGrantSettings, ConsoleOidcSettings, ConsoleSettings
from .gateway import AskedServerSettings, GatewayClientSettings, GatewayIssuerSettings, GatewaySettings
from .hooks import HookSettings
from .load import OVERRIDES, load_settings, process_settings
from .privacy import PrivacySettings, RetentionSettings
from .risk import AlertBudget, LevelPolicy, RiskSettings, TokenPolicySettings
from .root import Settings
from .secret import Secret
from .service import DeadLetterSettings, ListenSettings, PipelineSettings, TenantSettings, WebhookSettings
from .table import settings_table

__all__ = [
    "OVERRIDES",
    "ActuatorAuthSettings",
    "ActuatorSettings",
    "AlertBudget",
    "AskedServerSettings",
    "CallerSettings",
    "ConsoleGrantSettings",
    "ConsoleOidcSettings",
    "ConsoleSettings",
    "DeadLetterSettings",
    "GatewayClientSettings",
    "GatewayIssuerSettings",
    "GatewaySettings",
    "HookSettings",
    "IssuerSettings",
    "LevelPolicy",
    "ListenSettings",
    "PipelineSettings",
    "PrivacySettings",
    "RegisteredAgent",
    "RetentionSettings",
    "RiskSettings",
    "Secret",
    "Settings",
    "TenantSettings",
    "TokenPolicySettings",
    "VerificationSettings",
    "WebhookSettings",
    "load_settings",
    "process_settings",
    "settings_table",
]
