//! `check` of a gateway's rights at Asterisk, and `check --gateway`: does the path work, and can one go around it?
//!
//! The path is walked to an Asterisk itself: what answers there is what a gateway must be like.

use super::program::{Program, Said, for_lab};
use super::relay::Relay;
use super::{Instance, Lab};

/// A gateway with one user, by the name and secret of the lab's dialer.
fn gateway(lab: &Lab, more: &str) -> String {
    let secret = lab.secret("dialer");
    for_lab(
        lab,
        &format!(
            "[gateway]\npbx = \"pbx1\"\nlisten = \"127.0.0.1:0\"\n{more}[[gateway.user]]\nname = \"dialer\"\nsecret = \"{secret}\"\n\
             read = [\"call\"]\nwrite = [\"originate\", \"call\", \"system\"]\n"
        ),
    )
}

fn check(program: &Program, more: &[&str]) -> Said {
    let mut args = vec!["check", "--config", "trunkwarden.toml"];
    args.extend(more);
    let said = program.run(&args);
    eprintln!("{}", said.out);
    said
}

/// The lines that begin so, of which there must be one.
fn line<'a>(said: &'a Said, level: &str, words: &[&str]) -> &'a str {
    let found = said.out.lines().find(|line| line.starts_with(level) && words.iter().all(|word| line.contains(word)));
    found.unwrap_or_else(|| panic!("no {level} with {words:?}: {}{}", said.out, said.err))
}

#[test]
fn a_path_that_works_is_said_to_with_its_times_and_one_that_does_not_with_why() {
    let Some(lab) = Lab::bare() else { return };
    let program = Program::install(&gateway(&lab, ""));
    let clear = lab.ami_address().to_string();
    let said = check(&program, &["--gateway", "--gateway-address", &clear]);
    let path = line(&said, "ok", &["as dialer", "path works", &clear]);
    for step in ["connect", "login", "CoreSettings", "Ping", "Originate answered by Asterisk"] {
        assert!(path.contains(step), "{path}");
    }
    line(&said, "note", &["is the gateway itself"]);
    line(&said, "note", &["not covered", "ARI"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);

    let encrypted = lab.ami_tls_address().to_string();
    let ca = lab.ca_file().display().to_string();
    let tls = ["--gateway", "--gateway-address", &encrypted, "--tls", "--ca-file", &ca];
    line(&check(&program, &tls), "ok", &["as dialer", "(TLS)"]);
    // A certificate of another name is the way all the same, and said.
    let other = lab.addresses(Instance::Provider).ami_tls.to_string();
    let tls = ["--gateway", "--gateway-address", &other, "--tls", "--ca-file", &ca];
    line(&check(&program, &tls), "ok", &["as dialer", "certificate is good for"]);
    let other_ca = lab.other_ca_file().display().to_string();
    let tls = ["--gateway", "--gateway-address", &encrypted, "--tls", "--ca-file", &other_ca];
    let said = check(&program, &tls);
    line(&said, "PROBLEM", &["as dialer", "no path"]);
    assert_eq!(said.code, 1);

    program.configure(&gateway(&lab, "").replace(lab.secret("dialer"), "wrong"));
    let said = check(&program, &["--gateway", "--gateway-address", &clear]);
    line(&said, "PROBLEM", &["as dialer", "no path", "Authentication failed"]);
    assert_eq!(said.code, 1);
    let said = check(&program, &["--gateway", "--as", "dailer"]);
    assert!(said.code == 1 && said.out.contains("there are: dialer"), "{}", said.out);
    lab.stop(Instance::Pbx);
    let said = check(&program, &["--gateway", "--gateway-address", &clear]);
    line(&said, "PROBLEM", &["no path", "refused"]);
    program.end(&[lab.secret("dialer"), lab.secret("trunkwarden")]);
}

#[test]
fn a_dialer_that_asterisk_takes_itself_is_told_with_the_lines_that_end_it() {
    let Some(lab) = Lab::bare() else { return };
    let program = Program::install(&gateway(&lab, ""));
    // The provider's AMI in the place of the gateway's; the PBX's own is then the way around it.
    let gateway_address = lab.addresses(Instance::Provider).ami.to_string();
    let around = ["--gateway", "--gateway-address", &gateway_address];
    let said = check(&program, &around);
    line(&said, "ok", &["as dialer", "path works"]);
    line(&said, "note", &["can be reached", "controller's machine"]);
    line(&said, "warning", &["around it", "Asterisk takes \"dialer\"", "past the gateway"]);
    line(&said, "note", &["one login each", "fail2ban"]);
    assert!(
        said.out.contains("remove the section [dialer]") && said.out.contains("permit = 127.0.0.1/"),
        "{}",
        said.out
    );
    assert_eq!(said.code, 1);
    // Without it there, nothing is left to warn of.
    std::fs::remove_file(lab.addresses(Instance::Pbx).etc.join("manager.d/dialer.conf")).expect("the dialer's section");
    lab.cli(Instance::Pbx, "manager reload");
    let said = check(&program, &around);
    line(&said, "ok", &["around it", "does not take \"dialer\""]);
    assert_eq!(said.code, 0, "{}", said.out);
    program.end(&[lab.secret("dialer"), lab.secret("trunkwarden")]);
}

#[test]
fn what_the_gateways_users_were_promised_must_be_granted_by_asterisk() {
    let Some(lab) = Lab::bare() else { return };
    let program = Program::install(&gateway(&lab, ""));
    // The controller's own user may run commands, so that Asterisk says what it grants; it may not originate.
    let said = check(&program, &[]);
    line(&said, "PROBLEM", &["gateway", "`write = originate`", "\"trunkwarden\" lacks"]);
    assert!(
        said.out.contains("read = system,call\n") && said.out.contains("write = system,call,command,originate\n"),
        "{}",
        said.out
    );
    assert!(said.out.contains("writetimeout = 5000") && said.out.contains("allowmultiplelogin = yes"), "{}", said.out);
    assert_eq!(said.code, 1);

    let own = |user: &str| format!("[gateway.upstream]\nusername = \"{user}\"\nsecret = \"{}\"\n", lab.secret(user));
    // Without that right, what it lists is what it may do; and without `read = system` no FullyBooted comes.
    lab.ami_user("weak", "call", "reporting,originate");
    program.configure(&gateway(&lab, &own("weak")));
    let said = check(&program, &[]);
    line(&said, "PROBLEM", &["gateway", "FullyBooted"]);
    line(&said, "warning", &["gateway", "`write = system,call`"]);
    program.configure(&gateway(&lab, &own("dialer")));
    let said = check(&program, &[]);
    line(&said, "ok", &["gateway", "may do what the gateway's users were promised", "should be system,call"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    // One login at a time will not do.
    let section = lab.addresses(Instance::Pbx).etc.join("manager.d/dialer.conf");
    let text = std::fs::read_to_string(&section).expect("the dialer's section");
    std::fs::write(&section, format!("{}\nallowmultiplelogin = no\n", text.trim_end())).expect("written");
    lab.cli(Instance::Pbx, "manager reload");
    line(&check(&program, &[]), "PROBLEM", &["cannot log in twice", "Login Already In Use"]);

    // Files and ports that will not do.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").to_string();
    let files =
        "[gateway.tls]\nlisten = \"127.0.0.1:0\"\ncertificate = \"trunkwarden.toml\"\nkey = \"trunkwarden.toml\"\n";
    program.configure(&gateway(&lab, files).replacen(
        "listen = \"127.0.0.1:0\"\n[gateway.tls]",
        &format!("listen = \"{port}\"\n[gateway.tls]"),
        1,
    ));
    drop(std::net::TcpStream::connect(&port));
    let said = check(&program, &[]);
    line(&said, "PROBLEM", &["gateway", &port, "cannot be listened at"]);
    line(&said, "PROBLEM", &["trunkwarden.toml cannot be read as PEM"]);
    program.end(&[lab.secret("dialer"), lab.secret("trunkwarden")]);
}

#[test]
fn the_running_gateway_is_a_path_that_works_and_asterisk_does_not_know_its_users() {
    let Some(lab) = Lab::bare() else { return };
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let listen = free.local_addr().expect("an address");
    drop(free);
    let text =
        gateway(&lab, &format!("upstream = {{ username = \"dialer\", secret = \"{}\" }}\n", lab.secret("dialer")))
            .replace("listen = \"127.0.0.1:0\"\nupstream", &format!("listen = \"{listen}\"\nupstream"))
            .replace("name = \"dialer\"\nsecret = \"secret-dialer\"", "name = \"crm\"\nsecret = \"crm-knows\"");
    let program = Program::start(&text);
    let said = check(&program, &["--gateway"]);
    let path = line(&said, "ok", &["as crm", "path works", &listen.to_string()]);
    assert!(path.contains("Originate answered by Asterisk"), "{path}");
    line(&said, "note", &["around it", "controller's machine"]);
    line(&said, "ok", &["around it", "does not take \"crm\""]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    // Where the way to Asterisk is redirected to the gateway, nothing is open, and Asterisk is asked for no login.
    let redirected = Relay::to(listen);
    let redirected_to = redirected.address().to_string();
    let said = check(&program, &["--gateway", "--pbx-address", &redirected_to]);
    line(&said, "ok", &["around it", &redirected_to, "leads to the gateway: closed"]);
    assert!(!said.out.contains("own port can be reached") && !said.out.contains("fail2ban"), "{}", said.out);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    // While it runs, that its port is taken is no problem.
    let said = check(&program, &[]);
    line(&said, "note", &["gateway", "in use", "running gateway"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    program.end(&[lab.secret("dialer"), lab.secret("trunkwarden"), "crm-knows"]);
}
