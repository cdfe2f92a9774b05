//! Topics that cannot be published to: when they are asked about again, and which row finds out whether they work.

use std::sync::Arc;
use std::time::Instant;

use super::{KnownTopics, LOOK_MAX, PROBE_LOST, Probe, Standing};
use crate::backoff::Backoff;
use crate::kafka::Refusal;

impl KnownTopics {
    /// A due row has been handed over alone. If its topic is sick, that is the probe.
    pub fn went_alone(&mut self, name: &Arc<str>) {
        if let Standing::Sick { probe, .. } = &mut self.get(name).standing
            && let Probe::Wanted(settings) | Probe::Woken(settings) = *probe
        {
            *probe = Probe::Sent(settings);
        }
    }

    /// A row that went alone came back. `works` says that the broker took it, or refused nothing but this row.
    pub fn came_back(&mut self, name: &Arc<str>, works: bool) {
        let topic = self.get(name);
        let Standing::Sick { probe, .. } = &mut topic.standing else { return };
        match *probe {
            Probe::Sent(settings) if works => {
                topic.standing = Standing::Ready(settings);
                tracing::info!(topic = &**name, "topic is usable again");
            }
            _ => *probe = Probe::Idle,
        }
    }

    /// Asks about sick topics whose time has come. Returns those that only wait for a row that finds out.
    pub fn look_at_sick(&mut self, now: Instant) -> Vec<Arc<str>> {
        let (mut look, mut wanted) = (Vec::new(), Vec::new());
        for (name, topic) in &mut self.known {
            let Standing::Sick { probe, next_look, .. } = &mut topic.standing else { continue };
            match probe {
                Probe::Idle if *next_look <= now => look.push(Arc::clone(name)),
                Probe::Wanted(_) => wanted.push(Arc::clone(name)),
                // Whatever became of it, another one is tried.
                Probe::Woken(settings) if *next_look <= now => *probe = Probe::Wanted(*settings),
                Probe::Idle | Probe::Woken(_) | Probe::Sent(_) => {}
            }
        }
        look.iter().for_each(|name| _ = self.ask(name));
        wanted
    }

    /// A row has been woken to find out.
    pub fn probe_is_on_its_way(&mut self, name: &Arc<str>) {
        if let Standing::Sick { probe, next_look, .. } = &mut self.get(name).standing
            && let Probe::Wanted(settings) = *probe
        {
            (*probe, *next_look) = (Probe::Woken(settings), Instant::now() + PROBE_LOST);
        }
    }

    /// Nothing is there that could find out: metadata has to do.
    pub fn believe(&mut self, name: &Arc<str>) {
        let topic = self.get(name);
        if let Standing::Sick { probe: Probe::Wanted(settings), .. } = topic.standing {
            topic.standing = Standing::Ready(settings);
            tracing::info!(topic = &**name, "topic is there, nothing waits for it");
        }
    }

    /// The topic is missing or forbidden. Returns whether that is news.
    pub fn sicken(&mut self, name: &Arc<str>, refusal: Refusal) -> bool {
        let topic = self.get(name);
        let tries = match topic.standing {
            Standing::Sick { tries, .. } => tries + 1,
            _ => 1,
        };
        // Whoever makes the missing topic wants to see it work within seconds.
        let pace = Backoff { base: topic.policy.backoff.base, max: topic.policy.backoff.max.min(LOOK_MAX) };
        let next_look = Instant::now() + pace.delay(tries, rand::random::<f64>().max(0.2));
        topic.standing = Standing::Sick { refusal, tries, probe: Probe::Idle, next_look };
        topic.gates.close();
        tries == 1
    }
}
