//! What a user may run: their classes, and what Asterisk says its actions need.
//!
//! Which classes an action needs is asked of Asterisk itself (`ListCommands`), so that the actions of every module and
//! version are known. Whoever stands behind the gateway sees the list, and is refused, as if the rights were their own in
//! `manager.conf`.

use std::collections::HashMap;

use super::settings::GatewayUser;
use crate::wire::ami::{Classes, Message};

/// The actions of the PBX, and its CLI aliases.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// By name in lower case; `None`: a class that is not known here.
    needs: HashMap<String, Option<Classes>>,
    /// `cli show aliases`: alias and what it stands for.
    pub aliases: Vec<(String, String)>,
}

/// Whether a user may run an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Yes.
    Granted,
    /// No: `Permission denied`.
    Denied,
    /// There is no such action, or none that may be known: `Invalid/unknown command`.
    Unknown,
    /// Asterisk's list was not read yet.
    NotYet,
}

impl Catalogue {
    /// From the answer to `ListCommands`: `Name: synopsis  (Priv: system,reporting,all)`.
    #[must_use]
    pub fn of(list: &Message) -> Self {
        let entry = |name: &str, value: &str| {
            let classes = value.rsplit_once("(Priv: ")?.1.trim_end().strip_suffix(')')?;
            Some((name.to_ascii_lowercase(), needs(classes)))
        };
        let needs = list.headers().filter_map(|header| entry(&header.name(), &header.value())).collect();
        Self { needs, aliases: Vec::new() }
    }

    /// Adds the CLI aliases from the output of `cli show aliases`: two columns, after a headline.
    #[must_use]
    pub fn with_aliases<'a>(mut self, output: impl Iterator<Item = std::borrow::Cow<'a, str>>) -> Self {
        let mut lines = output.skip_while(|line| !line.trim_start().starts_with("Alias"));
        let real_at = lines.next().and_then(|head| head.find("Real"));
        for line in lines {
            let split = real_at.and_then(|at| line.split_at_checked(at));
            if let Some((alias, real)) = split.map(|(alias, real)| (alias.trim(), real.trim()))
                && !alias.is_empty()
                && !real.is_empty()
            {
                self.aliases.push((alias.to_owned(), real.to_owned()));
            }
        }
        self
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    /// Whether `user` may run `action`.
    #[must_use]
    pub fn permits(&self, user: &GatewayUser, action: &str) -> Permit {
        if self.is_empty() {
            return Permit::NotYet;
        }
        let name = action.to_ascii_lowercase();
        if user.actions.as_ref().is_some_and(|only| !only.contains(&name)) {
            return Permit::Denied;
        }
        match self.needs.get(&name) {
            Some(Some(needs)) if needs.is_empty() || user.write.overlaps(*needs) => Permit::Granted,
            Some(None) if user.write_all => Permit::Granted,
            Some(_) => Permit::Denied,
            None if user.write_all => Permit::Granted,
            None => Permit::Unknown,
        }
    }
}

/// `<none>` needs nothing; `all` at the end of each list is Asterisk's way to say that `all` has it too.
fn needs(classes: &str) -> Option<Classes> {
    let named = classes.strip_suffix(",all").unwrap_or(classes);
    if named == "<none>" {
        return Some(Classes::NONE);
    }
    Some(Classes::read(named)).filter(|classes| !classes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(write: &str) -> GatewayUser {
        GatewayUser {
            name: "dialer".to_owned(),
            secret: "x".into(),
            allow: Vec::new(),
            read: Classes::ALL,
            write: Classes::read(write),
            write_all: false,
            actions: None,
            trunks: None,
            unguarded: std::collections::BTreeSet::new(),
        }
    }

    fn catalogue() -> Catalogue {
        Catalogue::of(&Message::from_text(
            "Response: Success\r\nActionID: 1\r\nPing: Keepalive (a) command.  (Priv: <none>)\r\n\
             Originate: Originate a call.  (Priv: originate,all)\r\nCoreStatus: Show.  (Priv: system,reporting,all)\r\n\
             Brew: Coffee.  (Priv: kitchen,all)\r\n",
        ))
    }

    #[test]
    fn rights_are_those_asterisk_would_give() {
        let known = catalogue();
        assert_eq!(known.permits(&user(""), "ping"), Permit::Granted);
        assert_eq!(known.permits(&user("call"), "ORIGINATE"), Permit::Denied);
        assert_eq!(known.permits(&user("originate"), "Originate"), Permit::Granted);
        assert_eq!(known.permits(&user("reporting"), "CoreStatus"), Permit::Granted);
        assert_eq!(known.permits(&user("system"), "NoSuch"), Permit::Unknown);
        assert_eq!(known.permits(&user("system"), "Brew"), Permit::Denied, "a class from a later version");
        assert_eq!(known.permits(&GatewayUser { write_all: true, ..user("all") }, "NoSuch"), Permit::Granted);
        let only = GatewayUser { actions: Some(["ping".to_owned()].into()), ..user("all") };
        assert_eq!(known.permits(&only, "Originate"), Permit::Denied);
        assert_eq!(Catalogue::default().permits(&user("all"), "Ping"), Permit::NotYet);
    }

    #[test]
    fn aliases_are_read_from_what_the_cli_prints() {
        let lines =
            ["Alias Command         Real Command                 ", "originate             channel originate", ""];
        let known = catalogue().with_aliases(lines.into_iter().map(Into::into));
        assert_eq!(known.aliases, [("originate".to_owned(), "channel originate".to_owned())]);
    }
}
