//! Which trunks a channel like `PJSIP/100@airtel` goes out on.
//!
//! Asked with each call, so it is answered from the gate's own names, without a look at the board. What a channel driver
//! makes of a string is not always certain (`wire/dial.rs`): every trunk that some reading of it dials is given, and the
//! asker must take the one that holds.

use super::gate::Gate;
use crate::{
    ids::{PbxId, TrunkId},
    wire::dial,
};

/// Where a channel goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// The trunks it may go out on, the likeliest first.
    pub trunks: Vec<TrunkId>,
    /// A leg of it leads to no trunk that is known: it goes into the dialplan, to a phone, or somewhere unheard of.
    pub uncertain: bool,
}

/// The trunks of `pbx` that `channel` may go out on. It may be a dial string with several legs (`…&…`).
#[must_use]
pub fn trunks_of_channel(gate: &Gate, pbx: &PbxId, channel: &str) -> Ways {
    let mut ways = Ways::default();
    let mut legs = 0;
    for leg in dial::legs(channel) {
        legs += 1;
        let readings = leg.readings();
        let mut found = false;
        for trunk in readings.names.iter().filter_map(|name| gate.trunk_named(pbx, name)) {
            found = true;
            if !ways.trunks.contains(&trunk) {
                ways.trunks.push(trunk);
            }
        }
        ways.uncertain |= !found || readings.too_many;
    }
    // A part without a slash is no channel.
    ways.uncertain |= legs < channel.split('&').count();
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::EndpointName;

    fn ways(channel: &str) -> (Vec<String>, bool) {
        let (tx, gate) = Gate::new();
        let pbx = PbxId::try_from("pbx1").unwrap();
        let named = [("pbx1/airtel", "airtel-out"), ("pbx1/tata", "tata")]
            .map(|(trunk, endpoint)| (TrunkId::try_from(trunk).unwrap(), [EndpointName::try_from(endpoint).unwrap()]));
        tx.name(named.iter().map(|(trunk, endpoints)| (trunk, &endpoints[..])));
        let ways = trunks_of_channel(&gate, &pbx, channel);
        (ways.trunks.iter().map(ToString::to_string).collect(), ways.uncertain)
    }

    #[test]
    fn a_channel_goes_out_on_every_trunk_that_one_of_its_legs_names() {
        let (airtel, tata) = ("pbx1/airtel".to_owned(), "pbx1/tata".to_owned());
        for channel in [
            "PJSIP/100@airtel-out",
            "pjsip//100@AIRTEL-out",
            "PJSIP/airtel-out/sip:100@198.51.100.7",
            "PJSIP/100@airtel-out/sip:x@host",
            "PJSIP/airtel",
            "SIP/airtel/100",
        ] {
            assert_eq!(ways(channel), (vec![airtel.clone()], false), "{channel}");
        }
        assert_eq!(ways("PJSIP/1@airtel&PJSIP/1@tata"), (vec![airtel.clone(), tata], false));
        assert_eq!(ways("PJSIP/1@airtel&PJSIP/phone"), (vec![airtel.clone()], true));
        assert_eq!(ways("PJSIP/1@airtel&airtel"), (vec![airtel], true));
    }

    #[test]
    fn what_leads_to_no_known_trunk_is_uncertain() {
        for channel in ["PJSIP/100@nobody", "Local/100@airtel-out", "DAHDI/1/airtel", "airtel", "PJSIP", "PJSIP/", ""] {
            assert_eq!(ways(channel), (vec![], true), "{channel}");
        }
    }
}
