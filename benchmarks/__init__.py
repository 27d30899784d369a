"""Programs that measure, and their committed results (`results/*.json`). Read ratios within one file, not across."""
