//! Making SIP text fit to be shown: digests, passwords and media keys are blanked, everything else stays.
