"""The bits: payloads by digest, for whoever may have them now."""
