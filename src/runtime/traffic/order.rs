//! The order of a group's members in the kernel's array. Pure.

use super::slot::{Role, Slot};

/// The member at each index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order(Vec<Role>);

impl Order {
    /// The order after all members of a TCP or UDP group joined one after the other, beginning with this slot.
    pub fn joined(first: Slot, is_stream: bool) -> Self {
        let mut order = Role::all(is_stream).to_vec();
        (order[0], order[1]) = (Role::Slot(first), Role::Slot(first.other()));
        Self(order)
    }

    /// Builds an order from the members of a TCP or UDP group; `None` unless each member occurs exactly once.
    pub fn of(members: &[Role], is_stream: bool) -> Option<Self> {
        let all = Role::all(is_stream);
        let is_complete = members.len() == all.len() && all.iter().all(|role| members.contains(role));
        is_complete.then(|| Self(members.to_vec()))
    }

    /// Completes what a search has found: the member at each index, if it is known. A single unknown member follows from
    /// the others. Several are taken in the order in which they were expected, if the guard was found. `None` if the
    /// results contradict each other.
    pub fn completed(found: &[Option<Role>], expected: &Self) -> Option<Self> {
        let mut missing = expected.0.iter().filter(|role| !found.contains(&Some(**role)));
        let unknown = found.iter().filter(|role| role.is_none()).count();
        if unknown > 1 && !found.contains(&Some(Role::Guard)) {
            return None;
        }
        let members: Vec<Role> = found.iter().map_while(|role| role.or_else(|| missing.next().copied())).collect();
        Self::of(&members, expected.is_stream())
    }

    fn is_stream(&self) -> bool {
        self.0.len() == Role::STREAM.len()
    }

    /// Computes the order when the labels were written, from the labels of the members that survive. A missing member
    /// takes the index that is left. If labels contradict each other, the order of a new group is assumed.
    pub fn recorded(labels: impl Iterator<Item = (Role, u64)>, is_stream: bool) -> Self {
        let all = Role::all(is_stream);
        let mut order = vec![None; all.len()];
        for (role, place) in labels {
            match usize::try_from(place).ok().and_then(|place| order.get_mut(place)) {
                Some(free @ None) => *free = Some(role),
                _ => return Self::joined(Slot::A, is_stream),
            }
        }
        // K takes the last free index; the others take the rest.
        for &role in all.iter().rev() {
            if !order.contains(&Some(role))
                && let Some(free) = order.iter_mut().rev().find(|place| place.is_none())
            {
                *free = Some(role);
            }
        }
        let members: Vec<Role> = order.into_iter().flatten().collect();
        Self::of(&members, is_stream).unwrap_or_else(|| Self::joined(Slot::A, is_stream))
    }

    /// The order after the `lost` members left. The kernel moves the last member into each hole.
    pub fn without(&self, lost: &[Role]) -> Vec<Role> {
        let mut left = self.0.clone();
        lost.iter().for_each(|role| leave(&mut left, *role));
        left
    }

    /// Whether the order after these members left is the same whichever left first.
    pub fn is_certain_without(&self, lost: &[Role]) -> bool {
        let mut after = Vec::new();
        collect_orders(&self.0, lost, &mut after);
        after.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// The index of a member.
    pub fn index(&self, role: Role) -> u32 {
        // A UDP group has no tap, and nobody asks for one. The guard is the last.
        let index = self.0.iter().position(|member| *member == role).unwrap_or(self.0.len() - 1);
        u32::try_from(index).unwrap_or(0)
    }

    /// The number of members.
    pub fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(0)
    }

    /// True if the guard is the last member, as it must be.
    pub fn guard_is_last(&self) -> bool {
        self.0.last() == Some(&Role::Guard)
    }
}

/// A member leaves: the kernel moves the last member into its place.
fn leave(members: &mut Vec<Role>, role: Role) {
    if let Some(hole) = members.iter().position(|member| *member == role) {
        members.swap_remove(hole);
    }
}

/// Adds the order after each sequence in which these members may leave.
fn collect_orders(members: &[Role], lost: &[Role], after: &mut Vec<Vec<Role>>) {
    if lost.is_empty() {
        after.push(members.to_vec());
    }
    for index in 0..lost.len() {
        let (mut members, mut rest) = (members.to_vec(), lost.to_vec());
        leave(&mut members, rest.remove(index));
        collect_orders(&members, &rest, after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Role = Role::Slot(Slot::A);
    const B: Role = Role::Slot(Slot::B);
    const TA: Role = Role::Tap(Slot::A);
    const TB: Role = Role::Tap(Slot::B);
    const K: Role = Role::Guard;

    #[test]
    fn the_places_of_lost_members_follow_from_the_survivors() {
        let recorded = |labels: &[(Role, u64)]| Order::recorded(labels.iter().copied(), false).0;
        assert_eq!(recorded(&[(A, 0), (B, 1), (K, 2)]), [A, B, K]);
        assert_eq!(recorded(&[(A, 1), (K, 2)]), [B, A, K]);
        assert_eq!(recorded(&[(B, 0)]), [B, A, K]);
        assert_eq!(recorded(&[(B, 1)]), [A, B, K]);
        assert_eq!(recorded(&[(K, 2)]), [A, B, K]);
        assert_eq!(recorded(&[]), [A, B, K]);
        for broken in [&[(A, 0), (B, 0)][..], &[(A, 7)], &[(A, u64::MAX)]] {
            assert_eq!(recorded(broken), [A, B, K]);
        }
        let recorded = |labels: &[(Role, u64)]| Order::recorded(labels.iter().copied(), true).0;
        assert_eq!(recorded(&[(B, 0), (A, 1), (TB, 3)]), [B, A, TA, TB, K]);
        assert_eq!(recorded(&[(B, 0), (TA, 2)]), [B, A, TA, TB, K]);
        assert_eq!(recorded(&[]), [A, B, TA, TB, K]);
    }

    #[test]
    fn it_is_known_when_the_order_depends_on_which_member_was_lost_first() {
        let order = Order::joined(Slot::A, true);
        for certain in [&[][..], &[A], &[TB], &[K], &[A, K], &[TA, TB], &[TA, TB, K], &[B, K]] {
            assert!(order.is_certain_without(certain), "{certain:?}");
        }
        for uncertain in [&[A, B][..], &[A, TA], &[B, TA], &[A, B, K]] {
            assert!(!order.is_certain_without(uncertain), "{uncertain:?}");
        }
    }

    #[test]
    fn a_group_of_an_older_supervisor_has_no_taps() {
        let recorded = Order::recorded([(B, 0), (A, 1), (K, 2)].into_iter(), true);
        assert_eq!(recorded.without(&[TA, TB]), [B, A, K]);
    }

    #[test]
    fn it_does_not_matter_in_which_order_the_guard_and_another_member_were_lost() {
        for order in [Order::joined(Slot::A, false), Order::joined(Slot::B, true)] {
            for other in order.0.iter().copied().filter(|role| *role != K) {
                assert_eq!(order.without(&[other, K]), order.without(&[K, other]));
            }
        }
        assert_eq!(Order::joined(Slot::A, false).without(&[A]), [K, B]);
        assert_eq!(Order::joined(Slot::A, true).without(&[B]), [A, K, TA, TB]);
    }

    #[test]
    fn a_search_that_saw_enough_tells_the_order() {
        let expected = Order::joined(Slot::A, true);
        let completed = |found: [Option<Role>; 5]| Order::completed(&found, &expected).map(|order| order.0);
        let moved = vec![TB, B, TA, A, K];
        assert_eq!(completed([Some(TB), Some(B), Some(TA), Some(A), Some(K)]), Some(moved.clone()));
        assert_eq!(completed([Some(TB), Some(B), Some(TA), None, Some(K)]), Some(moved.clone()));
        assert_eq!(completed([Some(TB), Some(B), Some(TA), Some(A), None]), Some(moved));
        assert_eq!(completed([None, None, None, None, Some(K)]), Some(expected.0.clone()));
        assert_eq!(completed([Some(B), None, Some(TA), None, Some(K)]), Some(vec![B, A, TA, TB, K]));
        assert_eq!(completed([Some(A), None, None, Some(TB), None]), None, "the guard was not seen");
        assert_eq!(completed([Some(A), Some(A), Some(TA), Some(TB), Some(K)]), None, "a contradiction");
    }
}
