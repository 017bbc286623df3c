//! A deck of cards: drawing without repetition until all are drawn.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Cards that are all dealt before they are shuffled and dealt again.
#[derive(Debug)]
pub(super) struct Deck {
    cards: Vec<usize>,
    /// Cards before this one were dealt since the last shuffle.
    next: usize,
}

impl Deck {
    pub fn new(cards: Vec<usize>) -> Self {
        Self { next: cards.len(), cards } // dealt to the end: the first deal shuffles
    }

    /// `n` cards, none twice unless the whole deck is in the hand already; none from an empty deck.
    pub fn deal(&mut self, n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut hand = Vec::with_capacity(n);
        while hand.len() < n && !self.cards.is_empty() {
            if self.next == self.cards.len() {
                self.shuffle_again(hand.len(), rng);
            }
            hand.push(self.cards[self.next]);
            self.next += 1;
        }
        hand
    }

    /// Shuffles for a hand that holds the last `in_hand` cards dealt: those come last, so they are dealt again
    /// only when no other card is left.
    fn shuffle_again(&mut self, in_hand: usize, rng: &mut ChaCha8Rng) {
        let n = self.cards.len();
        let held = in_hand % n; // whole rounds of the deck are held equally often
        let (free, held) = self.cards.split_at_mut(n - held);
        free.shuffle(rng);
        held.shuffle(rng);
        self.next = 0;
    }
}
