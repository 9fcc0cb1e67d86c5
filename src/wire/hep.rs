//! HEPv3 packets, as `res_hep` sends them.
