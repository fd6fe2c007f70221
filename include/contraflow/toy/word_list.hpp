#pragma once

/// @file
/// The words that images are to show, as texts, numbers and tokens.

#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include <contraflow/core/tensor.hpp>

namespace contraflow::toy::words {

inline constexpr std::int64_t alphabet = 26;       ///< capital letters
inline constexpr std::int64_t most_letters = 5;    ///< of a word
inline constexpr std::int64_t fewest_letters = 3;  ///< of a word
inline constexpr std::int64_t pad_token = 0;       ///< behind the end of a word
inline constexpr std::int64_t first_token = 1;     ///< of A; the other letters follow
inline constexpr std::int64_t null_token = first_token + alphabet;  ///< nothing is asked for
inline constexpr std::int64_t vocabulary = null_token + 1;          ///< all tokens

namespace detail {
inline constexpr const char* listed =
    "ACE ACT ADD AGE AIR ANT ARM ART ASH AXE BAG BAT BAY BED BEE BOX BOY BUD BUS CAB CAN CAP CAR "
    "CAT COW CUP DAY DOG DOT DRY EAR EAT EGG ELF ELM END EYE FAN FAR FIG FIN FIT FIX FLY FOG FOX "
    "FUN GAS GEM GUM HAT HAY HEN HIP HOT HUB ICE INK IVY JAM JAR JAW JET JOB JOG JOY JUG KEY KID "
    "KIT LAB LAP LAW LEG LID LIP LOG MAP MAT MIX MOP MUD MUG NET NEW NUT OAK OAT OIL ONE OWL OWN "
    "PAN PAW PEA PEN PET PIE PIG PIN POT PUB RAM RAT RED RIB ROD ROW RUG RUN SAD SAW SEA SET SHY "
    "SIT SIX SKI SKY SUN TAP TAX TEA TEN TIE TIN TOE TOP TOY TUB TWO URN VAN VET WAX WEB WET WIG "
    "WIN YAK YES ZIP ZOO ABLE ACID AUNT AWAY BACK BALL BAND BANK BARN BATH BEAN BEAR BELL BELT "
    "BIRD BLUE BOAT BODY BONE BOOK BOWL BUSY CAKE CALM CAMP CARD CAVE CITY CLAY CLUB COAL COAT "
    "COIN COLD COOK COOL CORN CRAB CROW CUBE DARK DAWN DEEP DEER DESK DISH DOOR DRUM DUCK DUST "
    "EAST EASY ECHO EXAM EXIT FACE FARM FAST FILM FISH FIVE FLAG FOAM FORK FOUR FROG GAME GATE "
    "GIFT GLAD GOAT GOLD HAND HARP HAWK HEAD HERB HILL HOME HOOK HORN HUGE IDEA IRON JAZZ JOKE "
    "JUMP JURY KEEP KIND KING KITE KNEE LAKE LAMB LAMP LEAF LIME LION LUCK MAZE MILK MINT MOON "
    "MOSS NECK NEST NICE NOTE OBOE OPEN OVAL OVEN OXEN PAGE PALM PARK PATH PEAR PINE PINK PLUM "
    "POND QUAY QUIZ RAIN RICE RING ROAD ROCK ROOF ROPE ROSE SALT SAND SEED SHIP SHOE SILK SING "
    "SNOW SOFA STAR STEM SWAN TAXI TENT TREE TUBA TWIG VASE VERY VINE WAVE WEST WIDE WIND WOLF "
    "WOOD YARD YEAR YOGA ZERO ACTOR ADOBE AGENT ALARM AMBER ANGEL APPLE APRIL ARROW ATTIC BACON "
    "BADGE BAKER BEACH BERRY BIRCH BLACK BLAZE BLOOM BOARD BRAIN BREAD BRICK BROWN BRUSH CABIN "
    "CAMEL CANDY CARGO CHAIR CHALK CHESS CHIEF CHILD CLOCK CLOUD COACH COCOA CORAL COUCH CRANE "
    "CREAM CROWN DAISY DANCE DELTA DIVER DOZEN DREAM EAGLE EARTH EIGHT ELBOW EQUAL EXTRA FABLE "
    "FAIRY FEAST FENCE FIELD FLAME FLOAT FLOUR FOCUS FRAME FROST FRUIT GHOST GIANT GLASS GLOBE "
    "GLOVE GRAPE GRASS GREEN GUEST HAPPY HEART HEDGE HONEY HORSE HOTEL HOUSE IVORY JELLY JEWEL "
    "JOLLY JUICE KNIFE KOALA LABEL LEMON LIGHT LILAC LINEN LUCKY LUNCH MAGIC MAJOR MAPLE MARCH "
    "MEDAL MELON METAL MODEL MONTH MOUSE MOVIE MUSIC NINJA NOBLE NORTH NOVEL NURSE OCEAN OLIVE "
    "ONION OPERA ORBIT OTTER PAINT PANDA PAPER PARTY PEACH PEARL PIANO PILOT PIZZA PLANT PLAZA "
    "POINT PRIZE PUPIL QUEEN QUICK QUIET QUILT RADAR RADIO RAVEN RIVER ROBIN ROBOT ROYAL RUGBY "
    "SALAD SCARF SCOUT SEVEN SHARK SHEEP SHELL SHIRT SKATE SMILE SNAKE SOUTH SPICE SPOON SQUID "
    "STONE STORM SUGAR SUNNY TABLE TIGER TOAST TORCH TOWER TRAIN TULIP UNCLE URBAN VALVE VIDEO "
    "VILLA VIVID VOICE WAGON WALTZ WATER WHALE WHEAT WHEEL WHITE WINDY WORLD WOVEN YACHT YOUNG "
    "YOUTH ZEBRA";
}  // namespace detail

/// 499 English words of three to five letters, in capitals, the shorter ones first.
inline const std::vector<std::string>& all() {
  static const std::vector<std::string> words = [] {
    std::istringstream list(detail::listed);
    std::vector<std::string> result;
    for (std::string word; list >> word;) result.push_back(word);
    return result;
  }();
  return words;
}

/// Whether a word is in no training: every eighth of the list.
/// @param number of the word in all()
inline bool is_kept_out(std::int64_t number) { return number % 8 == 7; }

namespace detail {
inline Tensor part_of_list(bool kept_out) {
  std::vector<std::int64_t> numbers;
  for (std::int64_t i = 0; i < std::int64_t(all().size()); ++i) {
    if (is_kept_out(i) == kept_out) numbers.push_back(i);
  }
  return at::tensor(numbers, at::kLong);
}
}  // namespace detail

/// The words that are trained on.
/// @return int64 [437], numbers in all()
inline Tensor training_words() { return detail::part_of_list(false); }
/// The words that are kept out of all training.
/// @return int64 [62], numbers in all()
inline Tensor kept_out_words() { return detail::part_of_list(true); }

/// Texts of words.
/// @param numbers int64 [N], in all()
/// @throws Error if one is not the number of a word
inline std::vector<std::string> texts_of(const Tensor& numbers) {
  const auto count = std::int64_t(all().size());
  expects_below(numbers, count, "numbers", "numbers of words in [0, " + shown(count) + ")");
  std::vector<std::string> texts;
  for (std::int64_t i = 0; i < numbers.numel(); ++i) {
    texts.push_back(all()[std::size_t(numbers[i].item<std::int64_t>())]);
  }
  return texts;
}

/// Tokens of texts: a token a letter, padded.
/// @param texts of at most five capital letters
/// @return int64 [N, 5]
/// @throws Error naming a text that is longer, or has another character
inline Tensor tokens_of(const std::vector<std::string>& texts) {
  Tensor tokens = at::full({std::int64_t(texts.size()), most_letters}, pad_token, at::kLong);
  auto* row = tokens.mutable_data_ptr<std::int64_t>();
  for (const std::string& text : texts) {
    const bool fits = std::int64_t(text.size()) <= most_letters &&
                      text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ") == std::string::npos;
    expects(fits, "texts", "at most five capital letters", text);
    for (std::size_t k = 0; k < text.size(); ++k) row[k] = first_token + (text[k] - 'A');
    row += most_letters;
  }
  return tokens;
}

/// Text of tokens; other tokens than letters are left out.
/// @param tokens int64 [5]
inline std::string text_of(const Tensor& tokens) {
  std::string text;
  for (std::int64_t k = 0; k < tokens.numel(); ++k) {
    const auto token = tokens[k].item<std::int64_t>();
    if (token >= first_token && token < null_token) text += char('A' + (token - first_token));
  }
  return text;
}

/// Tokens of the prompt that asks for nothing, int64 [1, 5]: the negative of guidance.
inline Tensor null_prompt() { return at::full({1, most_letters}, null_token, at::kLong); }

}  // namespace contraflow::toy::words
