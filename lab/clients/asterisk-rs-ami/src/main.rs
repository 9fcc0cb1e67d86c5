//! The AMI client of the crate `asterisk-rs-ami` as its users write it: one line of output per thing done.
//!
//! `PORT USER SECRET ALLOWED HELD`: dial strings of a trunk that may be dialed and of one that may not. Any surprise is a panic.

use std::time::Duration;

use asterisk_rs_ami::AmiClient;
use asterisk_rs_ami::action::{OriginateAction, PJSIPShowEndpointsAction};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, user, secret, allowed, held] = args.as_slice() else { panic!("PORT USER SECRET ALLOWED HELD") };
    let client = AmiClient::builder()
        .host("127.0.0.1")
        .port(port.parse().expect("a port"))
        .credentials(user, secret)
        .require_challenge(true)
        .timeout(Duration::from_secs(10))
        .build()
        .await
        .expect("a client");
    let mut answers = client.subscribe_filtered(|event| event.event_name() == "OriginateResponse");
    let ping = client.ping().await.expect("a pong");
    println!("ping: {}", ping.headers.get("Ping").expect("Ping"));
    let list = client.send_collecting(&PJSIPShowEndpointsAction).await.expect("a list");
    let endpoints = list.events.iter().filter(|event| event.event_name() == "EndpointList").count();
    println!("endpoints: {endpoints}");
    for channel in [allowed, held] {
        let call = OriginateAction::new(channel).application("Wait").data("1").timeout_ms(9000).async_originate(true);
        let answer = client.originate(call).await.expect("an answer");
        println!("originate: {} {}", answer.response_type, answer.message.unwrap_or_default());
    }
    let answered = tokio::time::timeout(Duration::from_secs(10), answers.recv()).await.expect("in time");
    println!("event: {answered:?}");
    client.disconnect().await.expect("a farewell");
}
