"""DentBench tells whether a dynamic (test-time adapting) adversarial defense really holds."""

from __future__ import annotations

__version__ = "0.1.0"
