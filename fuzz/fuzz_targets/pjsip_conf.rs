//! The reader of `pjsip.conf` against any bytes, which also include themselves, under their own name and under others.
//!
//! Checks what the reader promises: no panic and an end, problems bounded and each with a line, and that what an auth keeps
//! secret is not printed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkwarden::wire::pjsip::{Kind, conf};

fuzz_target!(|bytes: &[u8]| {
    let mut given = 0;
    let (objects, problems) = conf::read("pjsip.conf", bytes, &mut |path| {
        given += 1;
        match path.len() % 4 {
            0 => Err("no such file".to_owned()),
            1 => Ok(Vec::new()),
            2 => Ok(vec![("pjsip.conf".to_owned(), bytes.to_vec())]),
            _ if given < 20 => Ok(vec![(format!("{given}.conf"), bytes.to_vec())]),
            _ => Ok(Vec::new()),
        }
    });
    assert!(problems.len() <= 1001);
    assert!(problems.iter().all(|problem| problem.place.line >= 1 && !problem.place.file.is_empty()));
    for (name, registration) in &objects.registrations {
        let found = objects.registration_by_uris(&registration.client_uri, &registration.server_uri);
        assert!(found.contains(&name.as_str()));
        let _ = (objects.transport_of(name), objects.auths_of(name), objects.endpoint_of(name));
        assert!(objects.place_of(Kind::Registration, name).is_some());
    }
    for (name, auth) in &objects.auths {
        let shown = format!("{auth:?}");
        assert!(auth.secrets.is_empty() || shown.contains("REDACTED"), "{name}");
    }
    let address = std::net::IpAddr::from([192, 0, 2, 1]);
    for identify in objects.identifies.values() {
        let _ = (identify.admits(address), identify.names().count());
    }
    for transport in objects.transports.values() {
        let _ = transport.is_local(address);
    }
});
