"""Worked examples shown to the teacher before its question: they set length and tone."""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "story": [
        (
            "Write a short story about a small mouse who finds a coin.",
            "Once upon a time there was a small mouse named Pip. One morning Pip found a "
            'shiny coin under a leaf. "Who lost this coin?" he asked. He asked the cat, but '
            "it was not her coin. He asked the old toad, and the toad began to smile. The "
            "coin was his! The toad thanked Pip and gave him a big piece of cheese. Pip ran "
            "home and shared the cheese with his family. They were all very happy.",
        ),
        (
            "Tell me a story about a boy who is new in town.",
            "Carl was new in town, and he had no friends. Every day he sat alone on the bench"
            " and watched the other children play. One day a ball rolled to his feet. Carl "
            'picked it up and threw it back. "That was a good throw!" said a girl. "Do you '
            'want to play with us?" Carl nodded. They played until the sun went down. When '
            "Carl came home, he told his mother that he had made a friend.",
        ),
        (
            "Write a story about a proud rooster who loses his voice.",
            "There was a proud rooster who sang every morning. He thought that the sun came "
            "up only because of his song. One day he woke up and had no voice. He was afraid "
            "that the night would never end. But the sun came up as always. The hens laughed,"
            ' and the rooster felt silly. "We still like your song," said the hens. The next '
            "day he sang again, and this time he sang for his friends.",
        ),
        (
            "Write a short story about an old woman who plants a rose.",
            "An old woman lived alone at the end of a long road. In spring she planted a rose"
            " beside her door. She gave it water every day and talked to it. The rose grew "
            "tall and had red flowers. People who walked by stopped to smell it. Soon they "
            "stopped to talk to the old woman too. By summer she knew everyone in the "
            "village. She was not alone anymore.",
        ),
    ],
    "explain": [
        (
            "What is a fence?",
            "A fence is a kind of wall made of wood or metal. It goes around a garden or a "
            "field. It keeps animals in and strangers out.",
        ),
        (
            "What is pepper?",
            "Pepper is a spice that we put on food. It is made from small black berries. It "
            "makes food taste hot.",
        ),
        (
            "Tell me about camels.",
            "Camels are big animals that live in the desert. They can walk for many days "
            "without water. People ride on them and use them to carry heavy things.",
        ),
    ],
    "how": [
        (
            "How do I wash a shirt?",
            "First, fill a bowl with warm water and add some soap. Put the shirt in and rub "
            "it well. Then rinse it with clean water. Hang it up and let it dry.",
        ),
        (
            "How can I learn a poem?",
            "Read the poem out loud a few times. Learn one line, and then add the next one. "
            "Say it again every day until you know it well.",
        ),
    ],
    "why": [
        (
            "Why do we wash our hands?",
            "We wash our hands to remove dirt and germs. Clean hands help us stay healthy.",
        ),
        (
            "Why do cars need wheels?",
            "Cars need wheels so that they can roll along the road. Without wheels a car "
            "could not move.",
        ),
    ],
    "list": [
        ("Name three tools.", "1. Hammer\n2. Saw\n3. Screwdriver"),
        ("List five pets.", "1. Dog\n2. Cat\n3. Rabbit\n4. Hamster\n5. Parrot"),
        ("Give me three things in a bathroom.", "1. Mirror\n2. Sink\n3. Bathtub"),
    ],
    "sentence": [
        (
            'Write a sentence with the word "ticket".',
            "I bought a ticket for the last show of the evening.",
        ),
        (
            'Write two sentences with the word "fence".',
            "The dog jumped over the fence. My father painted the fence white.",
        ),
    ],
    "describe": [
        (
            "Describe a barn.",
            "The barn is big and red. Inside it smells of hay. The cows stand in a row and "
            "eat, and a cat sleeps on the warm straw. Light comes in through the gaps in the "
            "old wood.",
        ),
        (
            "Describe a tall soldier.",
            "The soldier is very tall and stands straight. He wears a green uniform and black"
            " boots. His face is serious, but his eyes are kind.",
        ),
    ],
    "poem": [
        (
            "Write a short poem about a candle.",
            "A little candle in the night,\n"
            "it gives the room a golden light.\n"
            "It flickers softly, small and warm,\n"
            "and keeps us safe in every storm.",
        ),
        (
            "Write a short poem about the wall.",
            "The wall is old, the wall is gray,\n"
            "it stands beside the road all day.\n"
            "The ivy climbs up to the top,\n"
            "and little birds will never stop.",
        ),
    ],
    "feeling": [
        (
            "I feel homesick today.",
            "I am sorry to hear that. You could call your family or look at some old photos.",
        ),
        (
            "I am hurt. What should I do?",
            "I am sorry that you are hurt. Tell someone you trust, and give yourself time to rest.",
        ),
    ],
    "message": [
        (
            "Write a short message to my uncle about a concert.",
            "Dear Uncle, there is a concert in town on Saturday. I would love to go there "
            "with you. Please tell me if you have time. See you soon!",
        ),
        (
            "Write a short note to a tailor about a coat.",
            "Hello, my coat has a hole in the sleeve. Could you please fix it before Friday? "
            "Thank you very much for your help.",
        ),
    ],
    "question": [
        ("What does a tailor do?", "A tailor makes clothes and repairs them."),
        (
            "Where does a camel live?",
            "A camel lives in the desert. It can walk a long way without water.",
        ),
        (
            "What can I do with a rope?",
            "You can tie things together with a rope, or climb with it.",
        ),
    ],
}
