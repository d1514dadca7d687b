//! What has to hold in every state, and what has to happen in some.

use rxl_handover::source::SourceState;
use rxl_handover::target::TargetState;
use stateright::Property;

use crate::endings::{followers, is_good};
use crate::world::{Copied, World};
use crate::{EVENTUALLY, Handover, NEVER_OLD, NEVER_STUCK, NEVER_TWO};

pub fn all() -> Vec<Property<Handover>> {
    let mut properties = always();
    properties.extend(sometimes());
    properties
}

fn always() -> Vec<Property<Handover>> {
    vec![
        Property::always(NEVER_TWO, |_, world: &World| {
            !(world.source.copy.runs() && world.target.copy.runs())
        }),
        Property::always(NEVER_OLD, |_, world: &World| !(world.source_ran && world.target_ran)),
        Property::always(EVENTUALLY, |model: &Handover, world: &World| {
            model.ends_well.whatever_goes_on_first(&model.rules, world)
        }),
        Property::always("an ending stays one", |model: &Handover, world: &World| {
            !is_good(world) || followers(&model.rules, world).all(|next| is_good(&next))
        }),
        Property::always(NEVER_STUCK, |model: &Handover, world: &World| {
            is_good(world) || followers(&model.rules, world).next().is_some()
        }),
        Property::always("the records agree", |_, world: &World| agree(world)),
    ]
}

/// Which pairs of records may be met. A record that has ended is removed some time.
fn agree(world: &World) -> bool {
    use SourceState as S;
    use TargetState as T;
    match (world.source.record, world.target.record) {
        (Some(S::Leaving), target) => {
            matches!(target, None | Some(T::Receiving | T::Held | T::Aborted))
        }
        (Some(S::Committing | S::Granted), target) => target != Some(T::Settled),
        (Some(S::Returning | S::Returned), target) => {
            matches!(target, None | Some(T::Receiving | T::Held | T::Aborted | T::GivenBack))
        }
        // Done is said, by the session that started it, before that is recorded.
        (Some(S::Released), target) => {
            matches!(target, None | Some(T::Taken | T::Running | T::Settled))
        }
        (None, target) => target != Some(T::GivingBack),
    }
}

/// A model in which these do not happen has looked at too little.
fn sometimes() -> Vec<Property<Handover>> {
    vec![
        Property::sometimes("it moves", |_, world: &World| {
            is_good(world) && world.target.copy == Copied::Running
        }),
        Property::sometimes("it returns", |_, world: &World| {
            is_good(world) && world.source.copy == Copied::Running
        }),
        Property::sometimes("the target boots it", |_, world: &World| {
            is_good(world) && world.target.copy == Copied::Booted
        }),
        Property::sometimes("the source boots it", |_, world: &World| {
            is_good(world) && world.source.copy == Copied::Booted
        }),
        Property::sometimes("a claim is granted", |_, world: &World| {
            world.source.record == Some(SourceState::Granted)
        }),
        Property::sometimes("it is given back", |_, world: &World| {
            world.target.record == Some(TargetState::GivenBack)
        }),
        Property::sometimes("a source without memory hands it over", |_, world: &World| {
            world.source.was_off && world.target.copy == Copied::Running
        }),
    ]
}
