//! Capture files: pcap and pcapng, down to what was seen of SIP.
