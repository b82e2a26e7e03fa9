"""What every evaluation shares: threats, victims, the loop that judges, the evidence."""

import harness.process  # noqa: F401  (settings that must stand before torch is imported)
