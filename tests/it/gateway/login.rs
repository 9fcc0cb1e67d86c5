//! Who gets in: as at Asterisk, and by the gateway's own list.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio::time::{Instant, sleep, timeout};
use trunkwarden::wire::ami::client::md5_key;

use super::{Client, PATIENCE, World, quick, user};

#[tokio::test]
async fn a_challenge_login_is_asterisks_and_is_followed_by_fully_booted() {
    let world = World::new(quick(), |_| {}).await;
    let mut client = world.client().await;
    let answer = client.ask("action: Challenge\r\nactionid: 1_1#\r\nauthtype: MD5\r\n\r\n").await;
    let number = answer.strip_prefix("Response: Success\r\nActionID: 1_1#\r\nChallenge: ").unwrap().trim().to_owned();
    let key = md5_key(&number, &"dialer-secret".into());
    let login = format!(
        "action: Login\r\nactionid: 1_2#\r\nauthtype: MD5\r\nkey: {}\r\nusername: dialer\r\n\r\n",
        key.expose_secret()
    );
    assert_eq!(
        client.ask(login).await,
        "Response: Success\r\nActionID: 1_2#\r\nMessage: Authentication accepted\r\n\r\n"
    );
    assert!(client.message().await.starts_with("Event: FullyBooted\r\n"));
    let settings = client.ask("action: CoreSettings\r\nactionid: 1_3#\r\n\r\n").await;
    assert!(settings.starts_with("Response: Success\r\nActionID: 1_3#\r\nAMIversion: "), "{settings}");
    let again = client.ask("Action: Login\r\nUsername: dialer\r\nSecret: wrong\r\n\r\n").await;
    assert_eq!(again, "Response: Success\r\nMessage: Already authenticated\r\n\r\n");
    world.end().await;
}

#[tokio::test]
async fn a_wrong_secret_is_refused_late_and_the_connection_closed() {
    let world = World::new(quick(), |_| {}).await;
    for login in [
        "Username: dialer\r\nSecret: wrong",
        "Username: nobody\r\nSecret: dialer-secret",
        "Username: dialer\r\nAuthType: MD5\r\nKey: 00",
        "Username: dialer",
    ] {
        let mut client = world.client().await;
        let began = Instant::now();
        let answer = client.ask(format!("Action: Login\r\nActionID: 9\r\n{login}\r\n\r\n")).await;
        assert_eq!(answer, "Response: Error\r\nActionID: 9\r\nMessage: Authentication failed\r\n\r\n");
        assert!(began.elapsed() >= Duration::from_millis(900), "{login}: answered at once");
        assert!(client.is_closed().await);
    }
    world.end().await;
}

#[tokio::test]
async fn before_the_login_nothing_is_done() {
    let world = World::new(quick(), |_| {}).await;
    let mut client = world.client().await;
    assert_eq!(client.ask("Action: Ping\r\n\r\n").await, "Response: Error\r\nMessage: Permission denied\r\n\r\n");
    assert_eq!(client.ask("\r\n").await, "Response: Error\r\nMessage: Missing action in request\r\n\r\n");
    let goodbye = client.ask("Action: Logoff\r\n\r\n").await;
    assert_eq!(goodbye, "Response: Goodbye\r\nMessage: Thanks for all the fish.\r\n\r\n");
    assert!(client.is_closed().await);
    timeout(PATIENCE, async {
        // The gateway's own, which asks for the list of actions.
        while world.pbx.sessions() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("nobody was let through to the PBX");
    world.end().await;
}

#[tokio::test]
async fn whoever_does_not_log_in_is_let_go_and_too_many_of_them_are_not_even_greeted() {
    let change = |settings: &mut trunkwarden::gateway::GatewaySettings| {
        settings.auth_limit = 2;
        settings.auth_timeout = Duration::from_millis(400);
    };
    let world = World::new(quick(), change).await;
    let (mut one, mut two) = (world.client().await, world.client().await);
    let mut three = Client::silent(world.gateway.address()).await;
    assert_eq!(three.until(b"\r\n").await, None, "no greeting");
    assert!(one.is_closed().await && two.is_closed().await);
    let mut four = world.dialer().await;
    assert!(four.ask("Action: Ping\r\n\r\n").await.contains("Pong"));
    world.end().await;
}

#[tokio::test]
async fn an_address_that_is_not_allowed_gets_nowhere() {
    let world = World::new(quick(), |settings| {
        let mut far = user("far", "all", "all");
        far.allow = vec!["192.0.2.0/24".parse().unwrap()];
        settings.users.push(far);
    })
    .await;
    let mut client = world.client().await;
    let answer = client.ask("Action: Login\r\nUsername: far\r\nSecret: far-secret\r\n\r\n").await;
    assert!(answer.contains("Authentication failed"), "{answer}");
    let mut settings = world.settings.clone();
    settings.allow = vec!["192.0.2.0/24".parse().unwrap()];
    world.gateway.configure(settings).unwrap();
    let mut client = Client::silent(world.gateway.address()).await;
    assert_eq!(client.until(b"\r\n").await, None);
    world.end().await;
}

#[tokio::test]
async fn a_user_taken_out_of_the_configuration_is_cut_off_and_the_others_stay() {
    let world = World::new(quick(), |_| {}).await;
    let mut dialer = world.dialer().await;
    let mut watcher = world.client().await;
    watcher.log_in("watcher").await;
    let mut settings = world.settings.clone();
    settings.users.retain(|user| user.name != "watcher");
    world.gateway.configure(settings).unwrap();
    assert!(watcher.is_closed().await);
    assert!(dialer.ask("Action: Ping\r\nActionID: 3\r\n\r\n").await.contains("ActionID: 3"));
    world.end().await;
}
