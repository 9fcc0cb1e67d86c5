//! 2. Protocol values to facts about trunks; which trunk a fact belongs to; resync after a reconnect.
