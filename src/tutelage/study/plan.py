"""The study plan; it lives beside the corpora that carry it, see `corpus.study_plan`."""

from tutelage.corpus.study_plan import ANNOTATED as ANNOTATED
from tutelage.corpus.study_plan import MAX_LABELS as MAX_LABELS
from tutelage.corpus.study_plan import Kind as Kind
from tutelage.corpus.study_plan import Lesson as Lesson
from tutelage.corpus.study_plan import Plan as Plan
from tutelage.corpus.study_plan import Task as Task
from tutelage.corpus.study_plan import check_plan as check_plan
from tutelage.corpus.study_plan import read_plan as read_plan
from tutelage.corpus.study_plan import starter_plan as starter_plan
from tutelage.corpus.study_plan import write_plan as write_plan
