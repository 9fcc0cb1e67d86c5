//! A configuration, turned into what a controller is made of.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};

use super::{
    controller::Parameters,
    evidence::{HepListen, Patience, PbxEvidence},
    pbx::PbxSettings,
};
use crate::{
    api::{Role, Token},
    clock::Clock,
    config::{self, Config, EvidenceSettings, TokenRole},
    decision::Recipient,
    effect::{
        dialer::{Dialer, Webhook, WebhookTarget, http, webhook},
        outbox::{OutboxPolicy, Recipients},
    },
    gateway::GatewaySettings,
    observation::DeclaredTrunk,
    wire::ami::client::{AmiSettings, PlainLogin, Tls},
};

impl Parameters {
    /// What `config` describes.
    ///
    /// # Errors
    /// A webhook's URL or secret cannot be used.
    pub fn of(config: &Config, clock: &Arc<dyn Clock>) -> Result<Self> {
        let tokens = (config.api.tokens.iter())
            .map(|token| Token { name: token.name.clone(), role: role(token.role), sha256: token.sha256 })
            .collect();
        Ok(Self {
            store_url: config.store.url.clone(),
            retention: config.store.retention,
            listen: config.api.listen,
            tokens,
            pbxs: pbxs(config),
            policy: config.control_policy(),
            recipients: recipients(config, clock)?,
            outbox: OutboxPolicy::default(),
            hep: config.hep.as_ref().map(|hep| HepListen { listen: hep.listen, password: hep.password.clone() }),
            patience: Patience::default(),
            gateway: gateway(config),
        })
    }
}

const fn role(role: TokenRole) -> Role {
    match role {
        TokenRole::Viewer => Role::Viewer,
        TokenRole::Operator => Role::Operator,
        TokenRole::Admin => Role::Admin,
        TokenRole::Gate => Role::Gate,
    }
}

/// How each PBX is watched.
#[must_use]
pub fn pbxs(config: &Config) -> Vec<PbxSettings> {
    (config.pbxs.iter())
        .map(|pbx| {
            let declared = (config.trunks.iter())
                .filter(|trunk| trunk.id.pbx_str() == pbx.id.as_str())
                .map(|trunk| DeclaredTrunk {
                    id: trunk.id.clone(),
                    registrations: trunk.registrations.clone(),
                    endpoints: trunk.endpoints.clone(),
                })
                .collect();
            let EvidenceSettings { history, capture_id, heal } = pbx.evidence;
            PbxSettings {
                pbx: pbx.id.clone(),
                ami: ami(pbx),
                declared,
                reconcile: pbx.reconcile,
                known: Vec::new(),
                evidence: PbxEvidence { history, capture_id, heal },
            }
        })
        .collect()
}

/// The gateway, if there is one: with how the PBX behind it is reached.
#[must_use]
pub fn gateway(config: &Config) -> Option<GatewaySettings> {
    let gateway = config.gateway.clone()?;
    let pbx = config.pbxs.iter().find(|pbx| pbx.id == gateway.pbx)?;
    let mut upstream = ami(pbx);
    if let Some(user) = gateway.upstream {
        (upstream.username, upstream.secret) = (user.username, user.secret);
    }
    Some(GatewaySettings {
        pbx: gateway.pbx,
        listen: gateway.listen,
        tls: gateway.tls,
        allow: gateway.allow,
        auth_limit: gateway.auth_limit,
        auth_timeout: gateway.auth_timeout,
        users: gateway.users,
        local: gateway.local,
        rules: gateway.rules,
        limits: gateway.limits,
        upstream,
    })
}

/// How a PBX's AMI is reached.
#[must_use]
pub fn ami(pbx: &config::PbxSettings) -> AmiSettings {
    let access = &pbx.ami;
    let mut ami = AmiSettings::new(pbx.id.as_str(), access.address(), access.username.clone(), access.secret.clone());
    ami.unknown_after = pbx.unknown_after;
    if let Some(tls) = &access.tls {
        ami.tls = Tls::On { ca_file: tls.ca_file.clone(), server_name: tls.server_name.clone() };
    }
    if access.plain_login {
        ami.plain_login = PlainLogin::Anywhere;
    }
    ami
}

fn recipients(config: &Config, clock: &Arc<dyn Clock>) -> Result<Recipients> {
    let client = http::client().context("no HTTP client can be made")?;
    let webhook = |target: WebhookTarget| -> Result<Arc<dyn Dialer>> {
        Ok(Arc::new(Webhook::new(&target, client.clone(), Arc::clone(clock))?))
    };
    let mut recipients: Recipients = BTreeMap::new();
    for dialer in &config.dialers {
        let (url, secret) = (dialer.url.clone(), Some(dialer.secret.clone()));
        let made = webhook(WebhookTarget { url, secret, timeout: webhook::DEFAULT_TIMEOUT });
        let made = made.with_context(|| format!("dialer[{}] cannot be used", dialer.id))?;
        recipients.insert(Recipient::Dialer(dialer.id.clone()), made);
    }
    for notify in &config.notify {
        let (url, secret) = (notify.url.clone(), notify.secret.clone());
        let made = webhook(WebhookTarget { url, secret, timeout: webhook::DEFAULT_TIMEOUT });
        let made = made.with_context(|| format!("notify {} cannot be used", notify.name))?;
        recipients.insert(Recipient::Notify(notify.name.clone()), made);
    }
    Ok(recipients)
}
